"""Runs on a disk that can only be read are found all the same."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from omegaconf import DictConfig, open_dict, read_write


def redirect_hydra_files(config: DictConfig) -> bool:
    """Where the folder of the runs is there but cannot be written to, gives Hydra another one for
    its own files, which goes with this process: else it fails before the runs are looked for.

    Returns:
        Whether it was so.
    """
    folder = Path(config.output_dir).expanduser()
    effective = os.access in os.supports_effective_ids  # set-user-ID: what the process may, not who
    if not folder.is_dir() or os.access(folder, os.W_OK, effective_ids=effective):
        return False
    aside = tempfile.mkdtemp(prefix="asyndm-")
    atexit.register(shutil.rmtree, aside, ignore_errors=True)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.run.dir = config.hydra.sweep.dir = aside
    return True
