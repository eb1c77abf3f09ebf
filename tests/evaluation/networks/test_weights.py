"""Where weights are, what is said when they are not, and what names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.networks import weights
from evaluation.networks.weights import (
    check_settings,
    check_weights,
    find_local,
    find_weights_file,
    hash_files,
    hash_weights,
    identify,
)
from evaluation.runs.files import hash_file


@pytest.mark.parametrize(
    "model", ["/nowhere/model", "./model", "~/no such model", "model", "some/weights.pth"]
)
def test_what_is_meant_to_be_on_this_disk_and_is_not_is_refused(model: str) -> None:
    with pytest.raises(UserError, match="no such file or folder, and no ORG/NAME of the hub"):
        find_local(model)


def test_a_name_of_the_hub_that_cannot_be_fetched_is_told_with_its_remedy() -> None:
    assert find_local("nobody/no-such-model") is None
    look: Callable[[], object]
    for look in (
        lambda: check_weights("nobody/no-such-model", "main"),
        lambda: check_settings("nobody/no-such-model"),
    ):
        with pytest.raises(
            UserError, match="model=nobody/no-such-model: not in the local cache .* a copy"
        ):
            look()
    with pytest.raises(
        UserError, match="pretrained=nobody/no-such-model: w.pt is not in the local cache"
    ):
        find_weights_file("pretrained", "nobody/no-such-model", "w.pt", None)


def test_a_folder_must_have_a_config_and_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config.json"):
        check_weights(str(tmp_path), None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights there"):
        check_weights(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_bytes(b"w")
    check_weights(str(tmp_path), None)
    with pytest.raises(UserError, match="neither w.pt, nor a folder with it"):
        find_weights_file("model", str(tmp_path), "w.pt", None)
    (tmp_path / "w.pt").write_bytes(b"w")
    assert find_weights_file("model", str(tmp_path), "w.pt", None) == tmp_path / "w.pt"
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no tokenizer or picture transform there"):
        check_settings(str(tmp_path / "bare"))


def test_weights_are_named_by_their_content_or_by_hub_and_revision(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "notes.md").write_text(name)
    first = hash_files(tmp_path / "a")
    assert identify(str(tmp_path / "a")) == first == hash_files(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text('{"width": 1}')
    assert hash_files(tmp_path / "b") != first
    assert hash_files(tmp_path / "a" / "config.json") == hash_files(tmp_path / "a" / "config.json")
    assert (identify("org/name"), identify("org/name", "v1")) == ("org/name", "org/name@v1")


def test_a_file_of_weights_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def hash_noted(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(weights, "hash_file", hash_noted)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"1")
    whole, own = hash_files(tmp_path), hash_weights(file)
    assert own == hash_file(file) and (hash_files(tmp_path), hash_weights(file)) == (whole, own)
    assert read == [file]
    file.write_bytes(b"23")
    assert hash_weights(file) != own and hash_files(tmp_path) != whole
    assert read == [file, file]
