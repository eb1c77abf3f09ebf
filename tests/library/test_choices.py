"""What a class is called where it is chosen."""

from __future__ import annotations

import pytest

from asyndm.choices import to_snake_case
from asyndm.curves import Curve, PiecewiseLinear
from asyndm.masks import ExternalMask, Mask


@pytest.mark.parametrize(
    ("name", "words"),
    [("Linear", "linear"), ("PiecewiseLinear", "piecewise_linear"), ("CLIPScore", "c_l_i_p_score")],
)
def test_a_class_is_called_by_its_words(name: str, words: str) -> None:
    assert to_snake_case(name) == words


def test_a_class_of_ones_own_is_called_by_its_own_name() -> None:
    class SteadyMask(ExternalMask):
        pass

    class VerySteep(PiecewiseLinear):
        pass

    kinds: list[type[Curve | Mask]] = [SteadyMask, VerySteep]
    assert [kind.label for kind in kinds] == ["steady", "very_steep"]
