"""How all figures look."""

from __future__ import annotations

import pytest

from experiments.figures import style


def test_every_line_has_a_marker_and_dashes_of_its_own() -> None:
    known = style.assign_looks(["DM", "AsynDM", "AsynDM subjects=words", "Mine"])
    assert known["AsynDM"] == style.LOOKS["AsynDM"] and len(known) == len(style.LOOKS) + 2
    everything = [*style.LOOKS.values(), *style.REST]
    assert (
        len({look.marker for look in everything})
        == len({look.dashes for look in everything})
        == len(everything)
    )
    assert len({look.colour for look in style.LOOKS.values()}) == len(style.LOOKS)


@pytest.mark.parametrize("text", ["a dog and a cat " * 9, "x" * 500, "a dog " * 50_000])
def test_a_title_is_no_wider_than_its_figure(text: str) -> None:
    short = style.shorten(text, 2.0, 9.0, "bold")
    assert short.endswith("…") and 1.2 < style.measure_text(short, 9.0, "bold") <= 2.0
