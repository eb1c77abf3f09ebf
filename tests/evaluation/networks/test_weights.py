"""Where weights are, what is said when they are not, and what names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.networks.weights import check, check_settings, digest, identity, local, weights_file


@pytest.mark.parametrize(
    "model", ["/nowhere/model", "./model", "~/no such model", "model", "some/weights.pth"]
)
def test_what_is_meant_to_be_on_this_disk_and_is_not_is_refused(model: str) -> None:
    with pytest.raises(UserError, match="no such file or folder, and no ORG/NAME of the hub"):
        local(model)


def test_a_name_of_the_hub_that_cannot_be_fetched_is_told_with_its_remedy() -> None:
    assert local("nobody/no-such-model") is None
    for looked_for in (
        lambda: check("nobody/no-such-model", "main"),
        lambda: check_settings("nobody/no-such-model"),
    ):
        with pytest.raises(
            UserError, match="model=nobody/no-such-model: not in the local cache .* a copy"
        ):
            looked_for()
    with pytest.raises(
        UserError, match="pretrained=nobody/no-such-model: w.pt is not in the local cache"
    ):
        weights_file("pretrained", "nobody/no-such-model", "w.pt", None)


def test_a_folder_must_have_a_config_and_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config.json"):
        check(str(tmp_path), None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights there"):
        check(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_bytes(b"w")
    check(str(tmp_path), None)
    with pytest.raises(UserError, match="neither w.pt, nor a folder with it"):
        weights_file("model", str(tmp_path), "w.pt", None)
    (tmp_path / "w.pt").write_bytes(b"w")
    assert weights_file("model", str(tmp_path), "w.pt", None) == tmp_path / "w.pt"
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no tokenizer or picture transform there"):
        check_settings(str(tmp_path / "bare"))


def test_weights_are_named_by_their_content_or_by_hub_and_revision(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "notes.md").write_text(name)
    first = digest(tmp_path / "a")
    assert identity(str(tmp_path / "a")) == first == digest(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text('{"width": 1}')
    assert digest(tmp_path / "b") != first
    assert digest(tmp_path / "a" / "config.json") == digest(tmp_path / "a" / "config.json")
    assert (identity("org/name"), identity("org/name", "v1")) == ("org/name", "org/name@v1")
