"""How good the shipped evaluators of the shapes world are."""

from __future__ import annotations

from evaluation.metrics.blip_vqa import BLIPVQA
from evaluation.metrics.clip_score import CLIPScore
from experiments.studies.evaluator_accuracy import measure_answers, measure_retrieval
from experiments.training.evaluators.pictures import Pool


def test_the_shipped_blip_answers_single_phrases_about_pictures_it_has_not_seen(
    pool: Pool,
) -> None:
    answers = measure_answers(BLIPVQA("shapes", image_size=64), pool, seed=0)
    shares = {share.name: share for share in answers}
    assert shares["all"].asked > 400
    assert shares["all"].right / shares["all"].asked >= 0.95
    assert all(share.right / share.asked >= 0.95 for share in shares.values())


def test_the_shipped_clip_finds_the_prompts_of_pictures_it_has_not_seen(pool: Pool) -> None:
    metric = CLIPScore("shapes", convention="shapes")
    found = measure_retrieval(metric, pool, seed=0)
    shares = {share.name: share.right / share.asked for share in found}
    assert shares["all, text"] >= 0.78 and shares["all, true text"] >= 0.87
    assert shares["all, near miss"] >= 0.93 and shares["all, picture"] >= 0.9
