"""How often the exact checker is right."""

from __future__ import annotations

import pytest

from asyndm.protocols import Network
from asyndm.shapes.model import load_pipeline
from asyndm.shapes.world import KINDS
from experiments.studies.checker_accuracy import main, measure_accuracy


@pytest.fixture(scope="module")
def vae() -> Network:
    return load_pipeline("shapes").vae


@pytest.mark.parametrize("kind", KINDS)
def test_right_on_true_pictures_and_their_round_trips(kind: str, vae: Network) -> None:
    accuracy = measure_accuracy(kind, 64, vae, seed=2)
    assert accuracy.renders >= 0.98
    assert accuracy.round_trips >= 0.95
    assert accuracy.wrong_prompts <= 0.02


def test_a_number_of_pictures_that_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--pictures", "0"])
    assert "--pictures must be at least 1" in capsys.readouterr().err
