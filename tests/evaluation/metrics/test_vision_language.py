"""VQAScore and QwenScore against a small Qwen2.5-VL that is asked about one picture at a time, by
hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen2Config, Qwen2Tokenizer

from asyndm.errors import UserError
from evaluation.metrics.bert_score import BERTScore
from evaluation.metrics.qwen_score import QwenScore, read_rating
from evaluation.metrics.vision_language import load_processor, render_question
from evaluation.metrics.vqa_score import VQAScore
from evaluation.runs.prompts import Prompt
from tests.evaluation.metrics.pictures import draw_noise
from tests.evaluation.metrics.small_qwen import Alone, learn_pieces
from tests.lab import Lab

CLOSE = 5e-6
"""Largest difference of a probability from the second computation's, relative to it (9e-7
measured)."""
TEXTS = ["a red dog", "a rabbit and a cat on a very long bench", "a {} cat", "x"]
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(TEXTS)]
QUESTION, INSTRUCTION = VQAScore("m").question, QwenScore("m").instruction


@pytest.fixture(scope="module")
def alone(qwen: Path) -> Alone:
    return Alone(qwen)


@pytest.fixture
def copy(qwen: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen, tmp_path / "copy"))


def draw_pictures() -> list[Image.Image]:
    return draw_noise((32, 32), (64, 48), (16, 40), (24, 24))


def share(logits: torch.Tensor, token: int) -> float:
    return float(logits.exp()[token] / logits.exp().sum())


@pytest.mark.parametrize("answer", ["Yes", "no"])
def test_vqa_score_is_the_answers_share_of_one_pair_at_a_time(
    qwen: Path, alone: Alone, answer: str
) -> None:
    found = [
        score.value for score in VQAScore(str(qwen), answer=answer).score(draw_pictures(), PROMPTS)
    ]
    token = alone.tokenizer(answer)["input_ids"][0]
    for value, image, text in zip(found, draw_pictures(), TEXTS, strict=True):
        wanted = share(
            alone.asked(image, f'Does this figure show "{text}"? Please answer yes or no.'), token
        )
        assert value == pytest.approx(wanted, rel=CLOSE)
    assert max(value or 0 for value in found) > 2 * min(value or 0 for value in found)


def test_the_question_is_a_setting(qwen: Path, alone: Alone) -> None:
    asked = VQAScore(str(qwen), question="a {}?", answer="no")
    wanted = share(
        alone.asked(draw_pictures()[0], "a a red dog?"), alone.tokenizer("no")["input_ids"][0]
    )
    (score,) = asked.score(draw_pictures()[:1], PROMPTS[:1])
    assert score.value == pytest.approx(wanted, rel=CLOSE)
    assert asked.basis != VQAScore(str(qwen)).basis


def test_logits_are_computed_for_the_last_position_only(qwen: Path) -> None:
    metric, lengths = VQAScore(str(qwen)), list[int]()
    metric.loaded.network.lm_head.register_forward_hook(
        lambda head, args, out: lengths.append(out.shape[1])
    )
    metric.score(draw_pictures(), PROMPTS)
    assert lengths == [1]


def test_a_model_without_a_chat_template_is_asked_plainly(copy: Path, alone: Alone) -> None:
    (copy / "chat_template.jinja").unlink()
    metric = VQAScore(str(copy), question="a {}?")
    metric.check(PROMPTS, (32, 32))
    token = alone.tokenizer("Yes")["input_ids"][0]
    for score, image, text in zip(
        metric.score(draw_pictures(), PROMPTS), draw_pictures(), TEXTS, strict=True
    ):
        wanted = share(alone.logits(image, "", f"\na {text}?", []), token)
        assert score.value == pytest.approx(wanted, rel=CLOSE)


def test_what_cannot_be_asked_is_refused_in_one_line(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    processor = load_processor("vqa_score", str(copy), None)
    del processor.image_token
    with pytest.raises(ValueError, match="has none, and no image token either"):
        render_question(processor, "a dog?")
    (copy / "chat_template.jinja").write_text("{{ raise_exception('no\npictures') }}")
    with pytest.raises(
        UserError, match=r"^metric qwen_score: model=\S+: its chat template: no pictures$"
    ):
        QwenScore(str(copy)).check([], (32, 32))


def test_models_that_are_not_there_are_refused_before_loading(copy: Path, tmp_path: Path) -> None:
    for kind in (VQAScore, QwenScore):
        with pytest.raises(
            UserError, match=f"^metric {kind.name}: model=nobody/no-such-model: [^\n]+$"
        ):
            kind("nobody/no-such-model").check([], (32, 32))
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"^metric vqa_score: model=\S+: no weights there[^\n]+$"):
        VQAScore(str(copy)).check([], (32, 32))
    (copy / "model.safetensors").touch()
    VQAScore(str(copy)).check([], (32, 32))
    Qwen2Config().save_pretrained(tmp_path / "text")
    Qwen2Tokenizer(*learn_pieces("a red dog")).save_pretrained(tmp_path / "text")
    (tmp_path / "text" / "model.safetensors").touch()
    with pytest.raises(
        UserError, match="^metric vqa_score: model=.* choose a vision-language model$"
    ):
        VQAScore(str(tmp_path / "text")).check([], (32, 32))


def test_settings_that_ask_nothing_are_refused() -> None:
    with pytest.raises(
        UserError, match="metric vqa_score: question='a dog': has no {}, where the prompt"
    ):
        VQAScore("m", question="a dog")
    with pytest.raises(UserError, match="metric vqa_score: answer: must be a word"):
        VQAScore("m", answer=" ")
    with pytest.raises(UserError, match="metric qwen_score: instruction='': has no {}"):
        QwenScore("m", instruction="")
    for kind in (QwenScore, BERTScore):
        with pytest.raises(
            UserError, match=f"metric {kind.name}: max_new_tokens=0: must be at least 1"
        ):
            kind("m", max_new_tokens=0)


def answers(qwen: Path, most: int) -> list[str | None]:
    return QwenScore(str(qwen)).loaded.answers(
        draw_pictures(), [INSTRUCTION.replace("{}", text) for text in TEXTS], most
    )


def test_answers_are_greedy_ones_of_one_pair_at_a_time(copy: Path, alone: Alone) -> None:
    """Some end at once, some late; the model's own settings, sampling and a penalty of 2, are not
    followed."""
    questions = [INSTRUCTION.replace("{}", text) for text in TEXTS]
    free = [
        alone.tokens(image, text, 8, set())
        for image, text in zip(draw_pictures(), questions, strict=True)
    ]
    ends = {free[0][2], free[1][5]}
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(
        json.dumps({**settings, "eos_token_id": sorted(ends)})
    )
    wanted = [
        alone.tokens(image, text, 8, ends)
        for image, text in zip(draw_pictures(), questions, strict=True)
    ]
    assert len({len(tokens) for tokens in wanted}) > 1
    told = [
        " ".join(alone.tokenizer.decode(ids, skip_special_tokens=True).split()) for ids in wanted
    ]
    assert answers(copy, 8) == told and len(set(told)) == 4


def test_a_rating_is_read_from_the_answer(copy: Path, alone: Alone) -> None:
    """The network's rows for its first token and for the digit 7 change places, and so it answers
    7."""
    questions = [INSTRUCTION.replace("{}", text) for text in TEXTS]
    firsts = [
        alone.tokens(image, q, 1, set())[0]
        for image, q in zip(draw_pictures(), questions, strict=True)
    ]
    first = firsts[0]
    seven = alone.tokenizer("7")["input_ids"][0]
    network: Any = Alone(copy).network
    head = network.lm_head.weight.data
    head[[first, seven]] = head[[seven, first]]
    network.save_pretrained(copy)
    scores = QwenScore(str(copy), max_new_tokens=1).score(draw_pictures(), PROMPTS)
    assert [score.value for score in scores] == [
        7.0 if token == first else None for token in firsts
    ]
    assert {score.reason for score in scores if score.value is not None} == {"7"}
    invalid = [score.reason for score in scores if score.value is None]
    assert invalid and all(reason.startswith("no rating from 0 to 9: '") for reason in invalid)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("7", 7),
        ("0", 0),
        ("9.", 9),
        ("Rating: **8**", 8),
        ("7/9", 7),
        ("6 / 9", 6),
        ("(1)", 1),
        ("**5**", 5),
    ]
    + [
        ("The image shows 2 dogs. Rating: 7", 7),
        ("1. It shows a cat.\n2. Score: 4/9", 4),
        ("I'd give it 8 out of 9.", 8),
    ]
    + [("The rating is 3.", 3), ("My score would be 0", 0)]
    + [
        (text, None)
        for text in ("", "none", "10", "42", "-3", "7.5", "8/10", "8 out of 10", "5-6", "7th")
    ]
    + [
        (text, None)
        for text in (
            "from 0 to 9",
            "100%",
            "A4",
            "nine",
            "\N{SUPERSCRIPT TWO}",
            "1,000",
            "Rating: 8/10",
        )
    ]
    + [
        (text, None)
        for text in (
            "1. The image shows a cat",
            "It shows 2 dogs, so I like it",
            "Rating: 7.5",
            "3 or 4",
        )
    ],
)
def test_only_a_digit_that_stands_alone_is_a_rating(answer: str, value: int | None) -> None:
    score = read_rating(answer)
    assert score.value == value and answer in score.reason
    assert score.value is not None or score.reason == f"no rating from 0 to 9: {answer!r}"


def test_a_network_that_gives_no_numbers_gives_no_scores(copy: Path) -> None:
    network = Alone(copy).network
    network.lm_head.weight.data[5] = float("nan")
    network.save_pretrained(copy)
    for metric in (VQAScore(str(copy)), QwenScore(str(copy))):
        for score in metric.score(draw_pictures(), PROMPTS):
            assert score.value is None and score.reason == "the model gives no number"


def test_a_checkpoint_that_lacks_weights_is_refused(copy: Path) -> None:
    network = Alone(copy).network
    state = {
        name: value for name, value in network.state_dict().items() if "layers.1.mlp.up" not in name
    }
    network.save_pretrained(copy, state_dict=state)
    with pytest.raises(
        UserError, match=r"^metric vqa_score: model=\S+: no weights for model\.\S+mlp\.up"
    ):
        VQAScore(str(copy)).load()


def test_half_precision_is_near(qwen: Path) -> None:
    full, half = (
        VQAScore(str(qwen), dtype=dtype).score(draw_pictures()[:1], PROMPTS[:1])[0].value
        for dtype in ("auto", "bfloat16")
    )
    assert full is not None and half is not None and 0 < abs(full - half) < 0.3 * full


def test_runs_are_scored_and_invalid_answers_are_told(lab: Lab, qwen: Path) -> None:
    names = ("vqa_score", "qwen_score")
    settings = [f"metric.{name}.model={qwen}" for name in names]
    result = lab(f"metric=[{','.join(names)}]", *settings)
    assert result.status == 0 and "vqa_score 0.0" in result.out
    rows = [
        row
        for row in (lab.only_run() / "scores.csv").read_text().splitlines()
        if ",qwen_score," in row
    ]
    assert rows and all("no rating from 0 to 9: " in row for row in rows if ",qwen_score,," in row)
    assert any(",qwen_score,," in row for row in rows)
