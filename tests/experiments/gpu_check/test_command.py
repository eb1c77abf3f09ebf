"""The check's form for a CPU runs, and what it cannot run it says in a row."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from experiments.gpu_check import command, compilation
from experiments.gpu_check.parts import Missing, Part, Setting, run_part
from experiments.gpu_check.rows import FAILED, NOT_RUN, Row, write_csv, write_markdown
from experiments.timing.cases import NETWORKS
from experiments.timing.steps import OURS, STOCK
from tests.lab import ROOT

Table = list[dict[str, str]]
CPU = torch.device("cpu")


def read_table(folder: Path) -> Table:
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """All that a CPU can say."""
    folder = tmp_path_factory.mktemp("gpu")
    assert command.main(["--device", "cpu", "--small", "--out", str(folder)]) == 0
    return read_table(folder)


def pick(table: Table, check: str, measure: str) -> dict[str, str]:
    """Values of a measure, by case."""
    return {
        row["case"]: row["value"]
        for row in table
        if row["check"] == check and row["measure"] == measure
    }


def test_every_check_gives_numbers_and_none_fails(table: Table) -> None:
    assert {row["check"] for row in table} == {"machine", *command.CHECKS}
    assert {row["measure"] for row in table}.isdisjoint({NOT_RUN, FAILED})
    assert {row["verdict"] for row in table} == {"", "holds"}
    head = {row["case"]: row["measure"] for row in table if row["check"] == "machine"}
    assert head["torch"] == torch.__version__.partition("+")[0]
    assert {"device", "diffusers", "transformers", "Python"} <= set(head)


def test_a_step_of_every_family_waits_once_for_a_gpu(table: Table) -> None:
    expected = dict.fromkeys(NETWORKS, "1")
    assert pick(table, "waits", "AsynDM, a step") == expected
    assert pick(table, "waits", "DM, a step") == expected
    assert set(pick(table, "waits", "AsynDM, host and GPU mixed").values()) == {"0"}


def test_half_precision_gives_nearly_the_same(table: Table) -> None:
    ratios = pick(table, "sampling", "pictures, PSNR")
    for label in ("DM", "DM_concave", "AsynDM"):
        assert float(ratios[f"shapes {label} bfloat16"]) > 30
    latents = pick(table, "sampling", "latents, largest difference")
    assert 0 < float(latents["small sd35 AsynDM bfloat16"]) < 0.2
    assert float(latents["small sd35 AsynDM float32"]) < 1e-4
    scores = pick(table, "metrics", "scores, largest difference to float32")
    assert len(scores) == 2 and all(float(value) < 0.05 for value in scores.values())


def test_steps_are_timed_for_every_family(table: Table) -> None:
    ratios = pick(table, "steps", "AsynDM / stock, step")
    shares = pick(table, "steps", "stock, share of the arithmetic floor")
    assert set(ratios) == set(shares) == {f"{name} float32 batch 2" for name in NETWORKS}
    assert all(0.5 < float(value) < 10 for value in ratios.values())
    assert all(0 < float(value) < 1 for value in shares.values())


def test_a_batch_is_halved_leases_are_kept_and_blocks_compile(table: Table) -> None:
    assert pick(table, "memory", "batch that fits") == {"shapes AsynDM": "2"}
    assert pick(table, "memory", "pictures, largest difference") == {"shapes AsynDM": "0"}
    assert pick(table, "leases", "the second waits") == {"two processes": "1"}
    assert pick(table, "leases", "then has the same GPU") == {"two processes": "1"}
    differences = pick(table, "compilation", "AsynDM, latents, largest difference to eager")
    assert set(differences) == {"unet compile_repeated_blocks", "flux whole graph"}
    assert all(float(d) < 1e-5 for d in differences.values())


def run(part: Part, left: float = 60.0) -> list[Row]:
    return list(run_part(part, Setting(CPU, True, time.monotonic() + left)))


def fail(error: Exception) -> Iterator[Row]:
    yield Row("a", "b", "made before", 1.0)
    raise error


@pytest.mark.parametrize(
    ("error", "measure", "note"),
    [
        (Missing("a compiler (triton)"), NOT_RUN, "missing: a compiler (triton)"),
        (ModuleNotFoundError("No module named 'x'", name="x"), NOT_RUN, "missing: x"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            NOT_RUN,
            "too little memory: CUDA out of memory. Tried",
        ),
        (
            RuntimeError(
                "backend='inductor' raised:\nRuntimeError: Failed to find C compiler. So\n"
            ),
            NOT_RUN,
            "missing: a compiler: Failed to find C compiler. So",
        ),
        (
            subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c", "-I/usr/include"]),
            NOT_RUN,
            "missing: a compiler: Command '['/usr/bin/gcc', 'main.c', '-I/usr/include']' returned "
            "non-zero exit status 1.",
        ),
        (ValueError("no idea\nmore"), FAILED, "ValueError: no idea more"),
    ],
)
def test_what_breaks_is_one_row_after_those_made_before(
    error: Exception, measure: str, note: str
) -> None:
    rows = run(Part("a", "b", lambda: fail(error)))
    assert rows == [Row("a", "b", "made before", 1.0), Row("a", "b", measure, note=note)]
    assert rows[-1].is_bad == (measure == FAILED)


@pytest.mark.parametrize(
    ("settings", "left", "note"),
    [
        ({"modules": ("no_such_package",)}, 60, "missing: no_such_package"),
        ({"seconds": 90}, 60.5, "no time: takes about 90 s, 60 s are left"),
        ({}, 0, "no time: takes about 0 s, 0 s are left"),
    ],
)
def test_what_cannot_run_is_not_tried(settings: dict[str, object], left: float, note: str) -> None:
    part = Part("a", "b", lambda: fail(AssertionError("tried")), **settings)  # type: ignore[arg-type]
    assert run(part, left) == [Row("a", "b", NOT_RUN, note=note)]


def test_what_takes_longer_than_there_is_time_is_broken_off() -> None:
    def dawdle() -> Iterator[Row]:
        yield Row("a", "b", "made before", 1.0)
        while True:
            with suppress(Exception):  # as a library might
                time.sleep(0.01)

    began = time.monotonic()
    rows = run(Part("a", "b", dawdle), left=0.2)
    assert [row.measure for row in rows] == ["made before", NOT_RUN] and "broken off" in rows[
        1
    ].note
    assert time.monotonic() - began < 5 and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_has_a_target_is_run_first() -> None:
    setting = Setting(torch.device("cuda"), False, time.monotonic())
    modules = [import_module(f"experiments.gpu_check.{name}") for name in command.CHECKS]
    parts = [part for module in modules for part in module.list_parts(setting)]
    assert sum(part.seconds for part in parts if part.aimed) < 8 * 60


def test_other_latents_of_a_compiled_network_are_a_missed_target() -> None:
    case = replace(NETWORKS["unet"]("tiny", CPU, torch.float32), side=16)
    setting = Setting(CPU, True, time.monotonic() + 60)
    with torch.no_grad():
        eager = {kind: compilation._time(case, kind, setting) for kind in (STOCK, OURS)}
    good, bad = (
        list(compilation._compare(case, OURS, "unet", told, setting, None, 0.01))[1]
        for told in (eager, {**eager, OURS: (eager[OURS][0], eager[OURS][1] + 1)})
    )
    assert good.verdict == "holds" and bad.is_bad


def test_an_earlier_table_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.csv").write_text("of a card")
    monkeypatch.setattr(command, "check", lambda setting, names: iter(()))
    assert command.main(["--device", "cpu", "--small", "--out", str(tmp_path)]) == 0
    (earlier,) = tmp_path.glob("table-2*.csv")
    assert earlier.read_text() == "of a card"


def test_too_little_memory_is_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Setting, "find_memory", lambda setting: 12.3)
    (row,) = run(Part("a", "b", lambda: fail(AssertionError("tried")), memory=30))
    assert row.note == "too little memory: needs 30 GiB, 12 GiB are free"


def test_a_missed_target_is_told_and_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("a", "b", "c", 1.2, "", 1.05, note="spread"), Row("a", "b", "d", 3.0, least=2.0)]
    monkeypatch.setattr(command, "check", lambda setting, names: iter(rows))
    assert command.main(["--device", "cpu", "--small", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err == "a, b: c 1.2 (<= 1.05: missed): spread\n"
    assert "2 rows in 0 s, 1 to look at" in said.out
    assert [row["verdict"] for row in read_table(tmp_path)] == ["missed", "holds"]
    assert "| c | 1.2 |  | <= 1.05 | missed | spread |" in (tmp_path / "table.md").read_text()


def test_tables_have_a_line_for_each_row() -> None:
    rows = [Row("a", "b", "c", 1.0, note="one, two | three"), Row("a", "b", NOT_RUN, note="x")]
    assert len(list(csv.reader(write_csv(rows).splitlines()))) == 3
    lines = write_markdown(rows).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1


def test_without_diffusers_each_check_that_needs_it_is_a_row(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('diffusers', 'hydra', 'omegaconf', 'pandas'): sys.modules[name] = None\n"
        "from experiments.gpu_check.command import main\n"
        "options = ['--device', 'cpu', '--small', '--only', 'waits,leases,sampling,steps']\n"
        f"sys.exit(main([*options, '--out', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    table = read_table(tmp_path)
    missing = {row["check"]: row["note"] for row in table if row["measure"] == NOT_RUN}
    assert set(missing.values()) == {"missing: diffusers"}
    assert set(missing) == {"waits", "sampling", "steps"}
    assert pick(table, "leases", "the second waits") == {"two processes": "1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "--device cpu: real sizes are for a GPU; add --small"),
        (["--only", "steps,speed"], "--only speed: choose from waits, memory"),
        (["--minutes", "0"], "--minutes must be more than 0"),
    ],
)
def test_bad_arguments_end_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_there_is_no_gpu_the_form_for_a_cpu_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([])
    assert "--device cpu --small needs none" in capsys.readouterr().err
