"""The laboratory's command line on a tiny random pipeline, in this process or in one of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.run import main
from tests.forks import Fork

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = """\
- {text: a red dog and a cat, subjects: [dog, cat], kind: pair}
- {text: a dog above a red cat, subjects: [dog, red cat], kind: pair}
- {text: a rabbit, subjects: [rabbit], kind: single}
"""


BRIGHTNESS = "+metric.brightness._target_=tests.experiments.metrics.Brightness"
COUNTING = "+metric.brightness._target_=tests.experiments.metrics.Counting"
"""Under the same name, with counts."""


def read_images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def _hear_interrupts() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would the processes they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def pipeline_folder(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return folder


@dataclass
class Result:
    status: int
    out: str
    error: str

    @property
    def lines(self) -> list[str]:
        """What was said on standard error, without progress and the cost of a sweep."""
        return [
            line
            for line in self.error.splitlines()
            if line.strip() and not re.search(r"(img/s|s/img)\b|\d+%\||^to make: ", line)
        ]


@dataclass
class Lab:
    """`python -m experiments.run` with a tiny model, three prompts, two steps and a folder of its
    own."""

    folder: Path
    pipeline: Path
    capture: pytest.CaptureFixture[str] | None = None
    steps: int = 2

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def arguments(self, *overrides: str) -> list[str]:
        base = [
            "model=folder",
            f"model.path={self.pipeline}",
            "prompt_set=file",
            "metric=none",
            "device=cpu",
            f"prompt_set.path={self.folder / 'prompts.yaml'}",
            f"output_dir={self.runs}",
            f"num_inference_steps={self.steps}",
        ]
        given = {override.partition("=")[0] for override in overrides}
        options = [override for override in overrides if override.startswith("-")]
        given |= {f"{group}.path" for group in given}
        kept = [item for item in base if item.partition("=")[0] not in given]
        return [
            *options,
            *kept,
            *(override for override in overrides if not override.startswith("-")),
        ]

    def __call__(self, *overrides: str) -> Result:
        """In this process."""
        assert self.capture is not None
        self.capture.readouterr()
        status = main(self.arguments(*overrides))
        said = self.capture.readouterr()
        return Result(status, said.out, said.err)

    def read_output(self) -> str:
        """What was said since the last time, on standard output and error."""
        assert self.capture is not None
        said = self.capture.readouterr()
        return said.out + said.err

    def start(
        self, *overrides: str, code: Sequence[str] = ("-m", "experiments.run")
    ) -> subprocess.Popen[str]:
        """In a process of its own."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": path,
        }
        return subprocess.Popen(
            [sys.executable, *code, *self.arguments(*overrides)],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_hear_interrupts,
        )

    def fork(self, *overrides: str, hook: Callable[[], object] = int) -> Fork:
        """In a copy of this process, after the hook."""

        def act() -> int:
            hook()
            return main(self.arguments(*overrides))

        return Fork(act, self.folder)

    def only_run(self) -> Path:
        """The folder of the only run there is."""
        (folder,) = [path for path in self.runs.iterdir() if not path.name.startswith(".")]
        return folder


@pytest.fixture
def lab(tmp_path: Path, pipeline_folder: Path, capsys: pytest.CaptureFixture[str]) -> Lab:
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    return Lab(tmp_path, pipeline_folder, capsys)
