"""The evaluators of the shapes world: how they are trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from asyndm.shapes.model import load_pipeline
from asyndm.shapes.world import KINDS, Spec, Thing, prompts
from evaluation.metrics.blip_vqa import BLIPVQA
from evaluation.metrics.clip_score import CLIPScore
from evaluation.networks.weights import EMBEDDED
from evaluation.runs.prompts import Prompt
from experiments.training.evaluators import networks
from experiments.training.evaluators.command import main as train
from experiments.training.evaluators.near_misses import make_near_miss
from experiments.training.evaluators.pictures import (
    CONTENTS,
    Pool,
    draw_training_pool,
    list_false_phrases,
    list_held_out,
    list_true_phrases,
    to_images,
)


def test_the_shipped_evaluators_are_small_and_say_how_they_were_made() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()) <= 12e6
    for name in ("clip", "blip_vqa"):
        record = json.loads((EMBEDDED / name / "training.json").read_text())
        assert record["steps"] > 500 and record["pictures"] >= 10_000


def test_what_holds_of_a_picture_and_what_does_not() -> None:
    spec = Spec("count", (Thing("red", "circle", 2),), "", "white")
    assert list_true_phrases(spec) == ["two red circles", "a red circle", "a white background"]
    half, counts, around = list_false_phrases(spec)
    assert "a blue circle" in half and "a red circle" not in half
    assert "three red circles" in counts and "two red circles" not in counts
    assert "the sky" in around and "a white background" not in around
    pair = Spec("two", (Thing("red", "circle"), Thing("blue", "star")), "", "gray")
    assert list_false_phrases(pair)[0] == ["a blue circle", "a red star"]
    scene = next(spec for spec in prompts("train", "scene") if len(spec.things) == 2)
    assert "the sky" in list_true_phrases(scene) and "the sky" not in list_false_phrases(scene)[-1]


def test_patches_are_named_by_what_lies_in_them(pool: Pool) -> None:
    for spec, contents in zip(pool.drawn, pool.contents, strict=True):
        named = {CONTENTS[i] for i in contents.tolist()}
        assert named == {f"{thing.colour} {thing.shape}" for thing in spec.things} | {
            spec.background
        }


def test_training_shows_no_combination_of_the_other_splits_but_counts() -> None:
    vae = load_pipeline("shapes").vae.float()
    found = draw_training_pool(200, vae, torch.Generator().manual_seed(0))
    assert not {spec.combination for spec in found.asked} & list_held_out()
    changed = sum(
        a.text != b.text for a, b in zip(found.asked[::2], found.asked[1::2], strict=True)
    )
    assert changed > 50 and len(found.pictures) == 200


def test_near_misses_say_something_else() -> None:
    generator = torch.Generator().manual_seed(0)
    for kind in KINDS:
        for spec in prompts("test", kind)[:30]:
            assert make_near_miss(spec, generator).combination != spec.combination


def test_blip_begins_with_clips_vision() -> None:
    torch.manual_seed(0)
    clip, (blip, _) = networks.build_clip(), networks.build_blip()
    pictures = torch.randn(4, 3, 64, 64)
    torch.nn.init.normal_(clip.visual.ln_pre.weight, 1, 0.1)
    torch.nn.init.normal_(clip.visual.ln_pre.bias, 0, 0.1)
    networks.copy_vision(blip, clip, pictures)
    with torch.no_grad():
        theirs = clip.visual
        tokens = theirs.conv1(pictures).flatten(2).transpose(1, 2) + theirs.positional_embedding[1:]
        shrunk = (tokens.std(-1, correction=0) / tokens.std(-1).mean())[..., None]
        wanted = (theirs.ln_pre(tokens) - theirs.ln_pre.bias) * shrunk + theirs.ln_pre.bias
        found = blip.vision_model.embeddings(pictures)[:, 1:]
        assert (found - wanted).abs().max() < 1e-3
        state = torch.randn(4, 65, networks.WIDTH)
        ours = blip.vision_model.post_layernorm(blip.vision_model.encoder(state).last_hidden_state)
        assert (ours - theirs.ln_post(theirs.transformer(state))).abs().max() < 1e-3


def test_help_tells_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        train(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--out FOLDER where they are saved" in shown
    assert "--seed N of first weights, pictures and batches" in shown


def test_a_short_training_makes_evaluators_that_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pool: Pool
) -> None:
    short = ["--out", str(tmp_path), "--seconds", "1", "--pictures", "200"]
    assert train(["--only", "blip_vqa", *short]) == 1
    assert "no clip there, with whose vision blip_vqa begins" in capsys.readouterr().err
    assert train(short) == 0
    prompt = Prompt("p", "a red circle", phrases=("a red circle",))
    for metric in (
        BLIPVQA(str(tmp_path / "blip_vqa"), image_size=64),
        CLIPScore(str(tmp_path / "clip")),
    ):
        metric.check([prompt], (64, 64))
        assert metric.score(to_images(pool)[:1], [prompt])[0].value is not None
    assert train(["--seconds", "0"]) == 1
    assert "--seconds must be above 0" in capsys.readouterr().err
