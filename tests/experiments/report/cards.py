"""The cards that a page should have: what its filters are held against."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.experiments.report.pages import HOSTILE
from tests.written_runs import ASYNDM, CONCAVE, DM

METHODS = {"DM": DM, "DM_concave quadratic ω 0.5": CONCAVE, "AsynDM quadratic ω 0.5": ASYNDM}
B, C, A = METHODS


@dataclass(frozen=True)
class Card:
    """What should be on the page: the scores of each method, by metric."""

    prompt: str
    kind: str
    steps: str
    scores: dict[str, dict[str, float | None]]

    def exact(self, method: str) -> float | None:
        return self.scores.get(method, {}).get("exact")

    def difference(self, metric: str, first: str = A, second: str = B) -> float | None:
        a, b = (self.scores.get(method, {}).get(metric) for method in (first, second))
        return None if a is None or b is None else a - b


def make_cards() -> list[Card]:
    """24 prompts at 10 steps under three methods and at 20 under two; some scores are missing."""
    draw = random.Random(7)
    cards = []
    for i in range(24):
        prompt = HOSTILE if i == 0 else f"a {['red', 'Blue', 'green'][i % 3]} dog number {i}"
        for steps, methods in (("10", [B, C, A]), ("20", [B, A])):
            scores: dict[str, dict[str, float | None]] = {
                m: {"exact": float(draw.random() < 0.6), "clip": round(draw.random(), 2)}
                for m in methods
            }
            if i % 7 == 3:
                scores[A] = {"exact": None, "clip": None}
            cards.append(Card(prompt, ["one", "two"][i % 2], steps, scores))
    return cards


CARDS = make_cards()
