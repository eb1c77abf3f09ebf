"""Runs on a disk that can only be read are found all the same."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from omegaconf import DictConfig, open_dict, read_write


def keep_aside(config: DictConfig) -> bool:
    """Where the folder of the runs is there but cannot be written to, gives Hydra another one for
    its own files, which goes with this process: else it fails before the runs are looked for.

    Returns:
        whether it was so.
    """
    folder = Path(config.output_dir).expanduser()
    if not folder.is_dir() or os.access(
        folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        return False
    aside = tempfile.mkdtemp(prefix="asyndm-")
    atexit.register(shutil.rmtree, aside, ignore_errors=True)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.run.dir = config.hydra.sweep.dir = aside
    return True
