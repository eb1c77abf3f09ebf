"""BERTScore against a greedy matching of its own, of one caption of a small Qwen2.5-VL and its
prompt at a time."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BertConfig, RobertaConfig, RobertaModel, RobertaTokenizer

from asyndm.errors import UserError
from evaluation.metrics.bert_score import BERTScore
from evaluation.runs.prompts import Prompt
from tests.evaluation.metrics.pictures import draw_noise
from tests.evaluation.metrics.small_qwen import Alone, learn_pieces
from tests.lab import Lab

CLOSE = 1e-6
"""Largest difference of an F from the second computation's (2e-7 measured)."""
LAYERS, LENGTH = 2, 36
"""Layers that count, of three; tokens of a text at most."""
TEXTS = ["a red dog", "a rabbit and a cat on a very long bench", "x", "a dog", "dog cat " * 20]
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(TEXTS)]
INSTRUCTION = "Say what you see."


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of random weights, as transformers keeps one, without the pooler, which checkpoints
    often lack."""
    path = tmp_path_factory.mktemp("roberta")
    learned, merges = learn_pieces(*["a red dog and a cat on a bench"] * 3)
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*marks, *learned]
    tokenizer = RobertaTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=merges, model_max_length=LENGTH
    )
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    network = RobertaModel(
        RobertaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=LAYERS + 1,
            num_attention_heads=2,
            max_position_embeddings=LENGTH + 2,
        ),
        add_pooling_layer=False,
    )
    for name, tensor in network.named_parameters():
        torch.nn.init.normal_(tensor, 1.0 if "orm" in name and "weight" in name else 0.0, 0.3)
    network.save_pretrained(path)
    return path


def make_metric(qwen: Path, reader: Path, most: int = 12) -> BERTScore:
    return BERTScore(
        str(qwen),
        instruction=INSTRUCTION,
        max_new_tokens=most,
        text_model=str(reader),
        num_layers=LAYERS,
    )


def draw_pictures() -> list[Image.Image]:
    return draw_noise((32, 32), (64, 48), (16, 40), (24, 24), (40, 40))


@cache
def load_shortened(reader: Path) -> tuple[Any, Any]:
    """The text model without the layers that do not count."""
    network = RobertaModel.from_pretrained(
        reader, num_hidden_layers=LAYERS, add_pooling_layer=False
    )
    return network.eval(), RobertaTokenizer.from_pretrained(reader)


def compute_states(reader: Path, text: str) -> list[torch.Tensor]:
    """What the last layer says of each token between the marks, scaled to length 1."""
    network, tokenizer = load_shortened(reader)
    tokens = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))[: LENGTH - 2]
    with torch.no_grad():
        found = network(torch.tensor([[0, *tokens, 2]])).last_hidden_state[0]
    return [state / state.square().sum().sqrt() for state in found[1:-1]]


def match_tokens(reader: Path, caption: str, text: str) -> float:
    """F by loops over pairs of tokens."""
    ours, theirs = compute_states(reader, caption), compute_states(reader, text)
    precision = sum(max(0.0, *(float(x @ y) for y in theirs)) for x in ours) / len(ours)
    recall = sum(max(0.0, *(float(x @ y) for x in ours)) for y in theirs) / len(theirs)
    return 2 * precision * recall / (precision + recall)


def test_the_score_is_a_greedy_matching_of_caption_and_prompt(qwen: Path, reader: Path) -> None:
    scores = make_metric(qwen, reader).score(draw_pictures(), PROMPTS)
    alone = Alone(qwen)
    for score, image, text in zip(scores, draw_pictures(), TEXTS, strict=True):
        ids = alone.tokens(image, INSTRUCTION, 12, {alone.network.config.text_config.eos_token_id})
        assert score.reason == " ".join(
            alone.tokenizer.decode(ids, skip_special_tokens=True).split()
        )
        assert score.value == pytest.approx(match_tokens(reader, score.reason, text), abs=CLOSE)
    values = [score.value or 0 for score in scores]
    assert max(values) - min(values) > 0.05


def test_texts_are_compared_alike_up_to_the_models_length(qwen: Path, reader: Path) -> None:
    one = make_metric(qwen, reader)
    for caption in ("a red dog", "a cat", "a blue rabbit, and no dog " * 8):
        for text in TEXTS:
            assert one.similarity(caption, text) == pytest.approx(
                match_tokens(reader, caption, text), abs=CLOSE
            )
        assert one.similarity(caption, caption) == pytest.approx(1, abs=CLOSE)


def test_a_score_does_not_depend_on_its_company(qwen: Path, reader: Path) -> None:
    one = make_metric(qwen, reader)
    together = one.score(draw_pictures(), PROMPTS)
    for score, image, prompt in zip(together, draw_pictures(), PROMPTS, strict=True):
        assert one.score([image], [prompt]) == [score]


def test_the_layers_that_count_are_a_setting(qwen: Path, reader: Path) -> None:
    values = set()
    for layers in (1, 2, 3, None):
        one = make_metric(qwen, reader)
        one.num_layers = layers
        one.check(PROMPTS, (32, 32))
        values.add(one.similarity("a dog", "a red cat"))
    assert len(values) == 3


def test_what_cannot_be_compared_has_no_value(qwen: Path, reader: Path) -> None:
    """The captioner's rows for its first token and for the end of an answer change places: it says
    nothing."""
    alone, one = Alone(qwen), make_metric(qwen, reader, most=1)
    firsts = [alone.tokens(image, INSTRUCTION, 1, set())[0] for image in draw_pictures()]
    end = alone.tokenizer.convert_tokens_to_ids("<|im_end|>")
    captioning, network, _ = one.loaded
    head = captioning.network.lm_head.weight.data
    head[[firsts[0], end]] = head[[end, firsts[0]]]
    scores = one.score(draw_pictures(), PROMPTS)
    changed = [{firsts[0]: end, end: firsts[0]}.get(first, first) for first in firsts]
    captions = [
        alone.tokenizer.decode([token], skip_special_tokens=True).strip() for token in changed
    ]
    assert captions[0] == "" and any(captions)
    assert [score.reason for score in scores] == [
        caption or "empty caption" for caption in captions
    ]
    assert [score.value is None for score in scores] == [not caption for caption in captions]
    network.encoder.layer[0].output.dense.weight.data[:] = float("nan")
    again = one.score(draw_pictures(), PROMPTS)
    assert all(score.value is None for score in again)
    assert {score.reason for score in again} == {"empty caption", "the model gives no number"}
    head[3] = float("nan")
    assert {score.reason for score in one.score(draw_pictures(), PROMPTS)} == {
        "the model gives no number"
    }


def test_models_that_are_not_there_are_refused_before_loading(
    qwen: Path, reader: Path, tmp_path: Path
) -> None:
    def check(model: str, text_model: str, layers: int | None = LAYERS) -> None:
        BERTScore(model, text_model=text_model, num_layers=layers).check(PROMPTS, (32, 32))

    check(str(qwen), str(reader))
    with pytest.raises(UserError, match="^metric bert_score: model=nobody/no-such-model: [^\n]+$"):
        check("nobody/no-such-model", str(reader))
    with pytest.raises(
        UserError, match="^metric bert_score: text_model=nobody/no-such-model: [^\n]+$"
    ):
        check(str(qwen), "nobody/no-such-model")
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="^metric bert_score: text_model=.*: no weights there"):
        check(str(qwen), str(tmp_path))
    for layers in (0, 4):
        with pytest.raises(
            UserError, match=f"metric bert_score: num_layers={layers}: .* has 3 layers"
        ):
            check(str(qwen), str(reader), layers)


def test_text_models_that_do_not_fit_are_refused(qwen: Path, reader: Path, tmp_path: Path) -> None:
    network: Any = RobertaModel.from_pretrained(reader, add_pooling_layer=False)
    RobertaTokenizer.from_pretrained(reader).save_pretrained(tmp_path)
    state = {
        name: value for name, value in network.state_dict().items() if "layer.1.output" not in name
    }
    network.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match="text_model=.*: no weights for encoder.layer.1.output"):
        make_metric(qwen, tmp_path).load()
    network.save_pretrained(tmp_path)
    Alone(qwen).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="text_model=.*: its tokenizer marks no beginning and end"):
        make_metric(qwen, tmp_path).load()


def test_scores_rest_on_both_models(qwen: Path, reader: Path) -> None:
    basis = make_metric(qwen, reader).basis
    assert str(qwen) not in basis.values() and str(reader) not in basis.values()
    assert make_metric(qwen, qwen).basis["text_model"] == basis["model"] != basis["text_model"]


def test_runs_are_scored(lab: Lab, qwen: Path, reader: Path) -> None:
    settings = {
        "model": qwen,
        "text_model": reader,
        "num_layers": LAYERS,
        "max_new_tokens": 4,
    }
    result = lab(
        "metric=bert_score",
        *(f"metric.bert_score.{name}={value}" for name, value in settings.items()),
    )
    assert result.status == 0 and "bert_score 0." in result.out
