"""ImageReward against a slow computation of its own, from weights under the original file's
names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer

from asyndm.errors import UserError
from evaluation.metrics.image_reward import ImageReward
from evaluation.networks.weights import hash_files
from evaluation.runs.prompts import Prompt
from tests.evaluation.metrics.blip_reference import linear, text, vision
from tests.evaluation.metrics.pictures import draw_noise
from tests.lab import Lab

CLOSE = 2e-6
"""Largest difference from the second computation's, relative to the scores' size (5e-7 measured).
"""
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "blue",
    "dog",
    "cat",
    "and",
    "rabbit",
]
SIZE, PATCH, WIDTH, SEEN, INNER = 32, 16, 128, 64, 96
"""Sides of the picture and of its patches; widths of text, of vision and between."""
HEAD = {0: (24, WIDTH), 2: (16, 24), 4: (12, 16), 6: (8, 12), 7: (1, 8)}
TEXTS = ["a red dog", "a cat and a rabbit", "a blue cat", "dog " * 20 + "and " + "cat " * 20]


@dataclass(frozen=True)
class Model:
    """A small file as the original authors keep one, and a folder with its tokenizer."""

    file: Path
    tokenizer: Path
    weights: dict[str, Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    """Of all that the original file holds, unused weights among it."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, out: int, into: int) -> None:
        found.update({f"{name}.weight": (out, into), f"{name}.bias": (out,)})

    def norm(name: str, width: int) -> None:
        found.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    eyes, reader = "blip.visual_encoder", "blip.text_encoder"
    found |= {
        f"{eyes}.cls_token": (1, 1, SEEN),
        f"{eyes}.pos_embed": (1, (SIZE // PATCH) ** 2 + 1, SEEN),
        f"{eyes}.patch_embed.proj.weight": (SEEN, 3, PATCH, PATCH),
        f"{eyes}.patch_embed.proj.bias": (SEEN,),
        f"{reader}.embeddings.word_embeddings.weight": (len(WORDS) + 2, WIDTH),
        f"{reader}.embeddings.position_embeddings.weight": (40, WIDTH),
    }
    norm(f"{eyes}.norm", SEEN)
    norm(f"{reader}.embeddings.LayerNorm", WIDTH)
    for i in range(2):
        block = f"{eyes}.blocks.{i}"
        norm(f"{block}.norm1", SEEN)
        norm(f"{block}.norm2", SEEN)
        layer(f"{block}.attn.qkv", 3 * SEEN, SEEN)
        layer(f"{block}.attn.proj", SEEN, SEEN)
        layer(f"{block}.mlp.fc1", INNER, SEEN)
        layer(f"{block}.mlp.fc2", SEEN, INNER)
        block = f"{reader}.encoder.layer.{i}"
        for kind, width in (("attention", WIDTH), ("crossattention", SEEN)):
            layer(f"{block}.{kind}.self.query", WIDTH, WIDTH)
            layer(f"{block}.{kind}.self.key", WIDTH, width)
            layer(f"{block}.{kind}.self.value", WIDTH, width)
            layer(f"{block}.{kind}.output.dense", WIDTH, WIDTH)
            norm(f"{block}.{kind}.output.LayerNorm", WIDTH)
        layer(f"{block}.intermediate.dense", INNER, WIDTH)
        layer(f"{block}.output.dense", WIDTH, INNER)
        norm(f"{block}.output.LayerNorm", WIDTH)
    for i, (out, into) in HEAD.items():
        layer(f"mlp.layers.{i}", out, into)
    layer("blip.vision_proj", 8, SEEN)
    layer("blip.text_proj", 8, WIDTH)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("reward")
    weights = {name: 0.15 * torch.randn(shape) for name, shape in shapes().items()}
    for name, tensor in weights.items():
        if "norm" in name.lower() and name.endswith("weight"):
            tensor += 1
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(weights, root / "ImageReward.pt")
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(root / "words")
    return Model(root / "ImageReward.pt", root / "words", weights)


def draw_pictures() -> list[Image.Image]:
    return draw_noise((32, 32), (64, 64), (48, 20), (70, 101))


def make_prompts() -> list[Prompt]:
    return [Prompt(f"p{i}", text) for i, text in enumerate(TEXTS)]


def make_metric(model: Model, **settings: Any) -> ImageReward:
    return ImageReward(str(model.file), tokenizer=str(model.tokenizer), device="cpu", **settings)


def score_values(model: Model, **settings: Any) -> list[float]:
    found = [
        score.value
        for score in make_metric(model, **settings).score(draw_pictures(), make_prompts())
    ]
    return [value for value in found if value is not None]


def compute_expected(model: Model, image: Image.Image, prompt: str) -> float:
    """The reward by the slow computation, of the prompt's own tokens; the picture is prepared by
    hand."""
    weights = {name.removeprefix("blip."): value for name, value in model.weights.items()}
    shorter = min(image.size)
    width, height = (SIZE * side // shorter for side in image.size)
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) / 255
    square = resized[top : top + SIZE, left : left + SIZE]
    normal = (square - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    ids = [WORDS.index("[CLS]"), *map(WORDS.index, prompt.split()[:33]), WORDS.index("[SEP]")]
    seen = vision(weights, torch.tensor(normal.transpose(2, 0, 1), dtype=torch.float32))
    read = text(weights, "text_encoder", ids, seen)[0]
    for i in HEAD:
        read = linear(weights, f"mlp.layers.{i}", read)
    return (float(read) - 0.16717362830052426) / 1.0333394966054072


def test_scores_are_those_of_the_slow_computation(model: Model) -> None:
    wanted = [
        compute_expected(model, image, prompt)
        for image, prompt in zip(draw_pictures(), TEXTS, strict=True)
    ]
    found = score_values(model)
    scale = max(map(abs, wanted))
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < CLOSE * scale
    assert max(wanted) - min(wanted) > 0.1 * scale


def test_a_score_does_not_depend_on_its_company(model: Model) -> None:
    alone = [
        make_metric(model).score([i], [p])[0].value
        for i, p in zip(draw_pictures(), make_prompts(), strict=True)
    ]
    assert score_values(model) == pytest.approx(alone, abs=CLOSE)


def test_a_prompt_and_its_picture_both_count(model: Model) -> None:
    first, *_ = draw_pictures()
    same = [score.value for score in make_metric(model).score([first] * 4, make_prompts())]
    assert len({round(value or 0, 4) for value in same}) == 4
    same = [
        score.value for score in make_metric(model).score(draw_pictures(), [make_prompts()[0]] * 4)
    ]
    assert len({round(value or 0, 4) for value in same}) == 4


def test_words_after_the_thirty_third_are_not_read(model: Model) -> None:
    cut, longer = Prompt("p", " ".join(TEXTS[3].split()[:33])), Prompt("p", TEXTS[3] + "red " * 500)
    image = draw_pictures()[:1]
    assert make_metric(model).score(image, [longer]) == make_metric(model).score(image, [cut])
    assert make_metric(model).score(image, [longer]) != make_metric(model).score(
        image, [Prompt("p", cut.text[:-4])]
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(model: Model, dtype: str) -> None:
    full, half = np.asarray(score_values(model)), np.asarray(score_values(model, dtype=dtype))
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


def test_a_reward_that_is_no_number_is_no_score(model: Model, tmp_path: Path) -> None:
    broken = {**model.weights, "mlp.layers.7.bias": torch.tensor([float("nan")])}
    torch.save(broken, tmp_path / "ImageReward.pt")
    one = ImageReward(str(tmp_path), tokenizer=str(model.tokenizer), device="cpu")
    score = one.score(draw_pictures()[:1], make_prompts()[:1])[0]
    assert score.value is None and score.reason == "the model gives no number"


def test_what_is_not_there_is_refused(model: Model, tmp_path: Path) -> None:
    words = str(model.tokenizer)
    with pytest.raises(
        UserError, match="metric image_reward: model=.*none.pt: neither ImageReward.pt, nor"
    ):
        ImageReward(str(tmp_path / "none.pt"), tokenizer=words).check([], (64, 64))
    with pytest.raises(
        UserError, match="metric image_reward: model=.*: neither ImageReward.pt, nor"
    ):
        ImageReward(str(tmp_path), tokenizer=words).check([], (64, 64))
    with pytest.raises(
        UserError, match="model=nobody/none: ImageReward.pt is not in the local cache"
    ) as said:
        ImageReward("nobody/none", tokenizer=words).check([], (64, 64))
    assert "\n" not in str(said.value)
    with pytest.raises(UserError, match=r"metric image_reward: tokenizer=\S*: .*no tokenizer"):
        ImageReward(str(model.file), tokenizer=str(tmp_path)).check([], (64, 64))
    make_metric(model).check([], (64, 64))


@pytest.mark.parametrize(
    ("lost", "extra", "said"),
    [
        ("blip.visual_encoder.blocks.1.mlp.fc2.bias", None, "Missing key.*layers.1.mlp.fc2.bias"),
        (
            "blip.visual_encoder.patch_embed.proj.weight",
            None,
            "no weights 'vision_model.embeddings.patch",
        ),
        ("mlp.layers.4.weight", None, "no weights 'mlp.layers.4.weight'"),
        (None, "blip.itm_head.weight", "Unexpected key.*itm_head.weight"),
    ],
)
def test_a_file_of_other_weights_is_refused(
    model: Model, tmp_path: Path, lost: str | None, extra: str | None, said: str
) -> None:
    weights = {name: value for name, value in model.weights.items() if name != lost}
    torch.save(weights | ({extra: torch.zeros(2)} if extra else {}), tmp_path / "other.pt")
    with pytest.raises(
        UserError, match=f"metric image_reward: model=.*other.pt: .*{said}"
    ) as error:
        ImageReward(str(tmp_path / "other.pt"), tokenizer=str(model.tokenizer)).load()
    assert "\n" not in str(error.value)


def test_scores_rest_on_weights_and_tokenizer(model: Model, tmp_path: Path) -> None:
    asked = {"version": 1, "higher_is_better": True, "dtype": "float32"}
    assert ImageReward("o/n", "r", tokenizer="o/t").basis == {
        **asked,
        "model": "o/n@r",
        "tokenizer": "o/t",
    }
    own = make_metric(model).basis
    assert own == {
        **asked,
        "model": hash_files(model.file),
        "tokenizer": hash_files(model.tokenizer),
    }
    torch.save({**model.weights, "mlp.layers.7.bias": torch.ones(1)}, tmp_path / "ImageReward.pt")
    assert (
        ImageReward(str(tmp_path / "ImageReward.pt"), tokenizer=str(model.tokenizer)).basis != own
    )


def test_runs_are_scored(lab: Lab, model: Model) -> None:
    own = (
        f"metric.image_reward.model={model.file}",
        f"metric.image_reward.tokenizer={model.tokenizer}",
    )
    result = lab("metric=image_reward", *own)
    assert result.status == 0 and "image_reward" in result.out
    assert (lab.only_run() / "scores.csv").read_text().count("image_reward") == 3
