"""BLIP-VQA against a slow computation of its own, from the same weights in both of their
layouts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

from asyndm.errors import UserError
from evaluation.metrics.blip_vqa import BLIPVQA, list_questions, prepare_image
from evaluation.networks.blip import load_vqa
from evaluation.runs.prompts import Prompt
from tests.evaluation.metrics.blip_reference import yes_share
from tests.evaluation.metrics.pictures import draw_noise
from tests.lab import Lab

CLOSE = 2e-6
"""Largest difference of a P from the second computation's (7e-7 measured), before rounding."""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "?", "the", "left", "and"]
WORDS += ["a", "red", "blue", "big", "circle", "square", "dog", "cat"]
SIZE, WIDTH = 32, 128
PROMPTS = [
    Prompt("p0", "a red circle", phrases=("a red circle",)),
    Prompt("p1", "a blue square and a big red dog", phrases=("a blue square", "a big red dog")),
    Prompt("p2", "a cat on the left", phrases=("a cat", "the left")),
    Prompt("p3", "a dog and a dog, a Cat!", phrases=("a dog", "a dog", "a Cat!")),
]


@dataclass(frozen=True)
class Model:
    """The same weights as transformers keep them, and as the original authors do."""

    folder: Path
    file: Path
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("blip")
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        **shared,
        "vocab_size": len(WORDS) + 2,
        "encoder_hidden_size": WIDTH,
        "bos_token_id": len(WORDS),
        "max_position_embeddings": 40,
    }
    vision = {**shared, "image_size": SIZE, "patch_size": 16, "layer_norm_eps": 1e-6}
    network = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
    for name, tensor in network.named_parameters():
        torch.nn.init.normal_(tensor, 1.0 if "orm" in name and "weight" in name else 0.0, 0.15)
    network.save_pretrained(root / "folder")
    tokenizer.save_pretrained(root / "folder")
    weights = {find_original_name(name): value for name, value in network.state_dict().items()}
    torch.save({"model": weights}, root / "model.pth")
    return Model(root / "folder", root / "model.pth", weights)


def find_original_name(name: str) -> str:
    for new, old in {
        "vision_model.embeddings.class_embedding": "visual_encoder.cls_token",
        "vision_model.embeddings.position_embedding": "visual_encoder.pos_embed",
        "vision_model.embeddings.patch_embedding": "visual_encoder.patch_embed.proj",
        "vision_model.post_layernorm": "visual_encoder.norm",
        "vision_model.encoder.layers": "visual_encoder.blocks",
        "self_attn.projection": "attn.proj",
        "self_attn.qkv": "attn.qkv",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
    }.items():
        name = name.replace(new, old)
    return name


def draw_pictures(count: int = 4) -> list[Image.Image]:
    return draw_noise((32, 32), (64, 64), (48, 20), (100, 70))[:count]


def make_metric(model: Model, original: bool = False, **settings: Any) -> BLIPVQA:
    source = (
        {"model": str(model.file), "tokenizer": str(model.folder)}
        if original
        else {"model": str(model.folder)}
    )
    return BLIPVQA(**source, image_size=SIZE, device="cpu", **settings)


def compute_expected(model: Model, image: Image.Image, phrase: str) -> float:
    """P(yes) by the slow computation; picture and question prepared by hand."""
    squashed = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) / 255
    normal = (squashed - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    words = phrase.lower().replace("!", "").split() + ["?"]
    ids = [len(WORDS) + 1, *map(WORDS.index, words), WORDS.index("[SEP]")]
    pixels = torch.tensor(normal.transpose(2, 0, 1), dtype=torch.float32)
    return yes_share(model.weights, pixels, ids, len(WORDS), WORDS.index("yes"), WORDS.index("no"))


@pytest.mark.parametrize("original", [False, True])
def test_answers_are_those_of_the_slow_computation(model: Model, original: bool) -> None:
    own = [*PROMPTS[1].phrases, *PROMPTS[3].phrases]
    images = draw_pictures(2)
    pairs = [
        (place, list_questions(Prompt("p", "x", phrases=(phrase,)))[0])
        for place in (0, 1)
        for phrase in own
    ]
    found = make_metric(model, original)._answers(images, pairs)
    wanted = [compute_expected(model, image, phrase) for image in images for phrase in own]
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < CLOSE
    assert max(wanted) - min(wanted) > 0.05


def test_the_score_is_the_rounded_product_over_the_phrases_that_name_things(model: Model) -> None:
    for image, prompt, score in zip(
        draw_pictures(), PROMPTS, make_metric(model).score(draw_pictures(), PROMPTS), strict=True
    ):
        answers = [
            round(compute_expected(model, image, phrase), 4)
            for phrase in prompt.phrases
            if phrase != "the left"
        ]
        assert score.value == pytest.approx(round(math.prod(answers), 4), abs=1.01e-4)
        assert score.reason.count(";") == len(answers) - 1 and "the left" not in score.reason


def test_a_score_does_not_depend_on_its_company(model: Model) -> None:
    together = make_metric(model).score(draw_pictures(), PROMPTS)
    alone = [
        make_metric(model).score([i], [p])[0] for i, p in zip(draw_pictures(), PROMPTS, strict=True)
    ]
    for a, b in zip(together, alone, strict=True):
        assert a.value == pytest.approx(b.value, abs=1.01e-4)


def test_each_picture_is_encoded_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    one, encoded = make_metric(model), list[int]()
    one.loaded.network.vision_model.register_forward_hook(
        lambda module, args, out: encoded.append(len(args[0]))
    )
    one.score(draw_pictures(), PROMPTS)
    assert encoded == [4] and sum(len(list_questions(prompt)) for prompt in PROMPTS) > 4


def test_pictures_of_another_size_have_interpolated_places(model: Model) -> None:
    larger = load_vqa(str(model.folder), None, None, 64).network
    table = larger.vision_model.embeddings.position_embedding
    small = model.weights["visual_encoder.pos_embed"]
    assert table.shape == (1, 17, WIDTH) and torch.equal(table[:, 0], small[:, 0])
    grid = small[0, 1:].reshape(2, 2, WIDTH).permute(2, 0, 1)[None]
    wanted = (
        torch.nn.functional.interpolate(grid, (4, 4), mode="bicubic")[0]
        .permute(1, 2, 0)
        .reshape(16, WIDTH)
    )
    assert torch.allclose(table[0, 1:], wanted, atol=1e-6)
    assert prepare_image(draw_pictures()[0], 64).shape == (3, 64, 64)


def test_questions_are_cleaned_and_limited() -> None:
    prompt = Prompt("p", "x", phrases=('A "Big" dog!', "top", "the side"))
    assert list_questions(prompt) == ["a big dog?"]
    many = Prompt("p", "x", phrases=tuple(f"thing {i}" for i in range(12)))
    assert len(list_questions(many)) == 8


def test_what_cannot_be_asked_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompt 'a dog' has no phrases to ask about"):
        make_metric(model).check([Prompt("p", "a dog")], (64, 64))
    assert (
        make_metric(model).score(draw_pictures(1), [Prompt("p", "a dog")])[0].reason
        == "no phrases to ask about"
    )
    with pytest.raises(UserError, match="metric blip_vqa: model=.*none.pth: no such file"):
        BLIPVQA(str(tmp_path / "none.pth")).check([], (64, 64))
    with pytest.raises(UserError, match="a .pth has no tokenizer"):
        BLIPVQA(str(model.file)).check([], (64, 64))
    with pytest.raises(UserError, match="model=nobody/no-such-model: "):
        BLIPVQA("nobody/no-such-model").check([], (64, 64))
    lacking = {name: value for name, value in model.weights.items() if "blocks.1.mlp" not in name}
    torch.save({"model": lacking}, tmp_path / "lacking.pth")
    with pytest.raises(UserError, match="lacking.pth: .*Missing key"):
        BLIPVQA(str(tmp_path / "lacking.pth"), tokenizer=str(model.folder)).load()


def test_runs_are_scored(lab: Lab, model: Model) -> None:
    (lab.folder / "prompts.yaml").write_text(
        "- {text: a red dog, subjects: [dog], phrases: [a red dog]}\n"
    )
    result = lab(
        "metric=blip_vqa", f"metric.blip_vqa.model={model.folder}", "metric.blip_vqa.image_size=32"
    )
    assert result.status == 0 and "blip_vqa 0." in result.out
    assert "a red dog? 0." in (lab.only_run() / "scores.csv").read_text()


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(model: Model) -> None:
    with pytest.raises(
        UserError, match="metric blip_vqa: image_size=70: must be a multiple of the model's 16"
    ):
        BLIPVQA(str(model.folder), image_size=70).load()
    for size in (0, "abc"):
        with pytest.raises(
            UserError, match=f"metric blip_vqa: image_size={size}: must be a whole number"
        ):
            BLIPVQA(str(model.folder), image_size=size)  # type: ignore[arg-type]


def test_a_file_that_holds_no_weights_is_refused_in_one_line(model: Model, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(
        UserError, match=r"text.pth: not a file of weights of PyTorch, or cut short$"
    ):
        BLIPVQA(str(tmp_path / "text.pth"), tokenizer=str(model.folder)).load()


def test_prompts_without_phrases_leave_the_others(model: Model) -> None:
    both = [Prompt("p", "a dog"), PROMPTS[0]]
    make_metric(model).check(both, (64, 64))
    first, second = make_metric(model).score(draw_pictures()[:2], both)
    assert (first.value, first.reason) == (
        None,
        "no phrases to ask about",
    ) and second.value is not None
