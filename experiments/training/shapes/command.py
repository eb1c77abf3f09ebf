"""Train the embedded models from nothing: autoencoder, pictures, a common trunk, then the two
checkpoints; or others beside them.

    python -m experiments.training.shapes                    # about 110 minutes on two CPU cores
    python -m experiments.training.shapes trunk.seconds=300  # quicker and worse
    python -m experiments.training.shapes start_from=src/asyndm/shapes/weights/shapes  # better
    python -m experiments.training.shapes training=free      # slow regions that are not the objects
    python -m experiments.training.shapes training=again     # each recipe with a second seed
    python -m experiments.training.shapes training=minutes   # 1, 5 and 20 minutes, and LoRAs

Stages whose output is in `out` are not repeated; trunk and branches, when interrupted, go on where
their state was last saved, the other stages begin again. The results are diffusers folders,
`out`/shapes and `out`/shapes_mixed (or as the branches are called, a LoRA as a folder of its
weights), with a record of each stage in a JSON file beside them.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asyndm.errors import UserError
from evaluation.choices import CONF
from experiments.engine.hydra_app import raise_hydra_errors
from experiments.engine.hydra_messages import describe
from experiments.engine.preflight import check_writable
from experiments.training.shapes.settings import Settings, register


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train_shapes")
def _train(config: DictConfig) -> None:
    try:
        settings = OmegaConf.to_object(config)
        assert isinstance(settings, Settings)
        out = Path(settings.out).resolve()
        settings.check()
        check_writable(out, 0)
        from experiments.training.shapes.stages import train

        train(out, settings)
    except (UserError, OmegaConfBaseException) as error:
        raise SystemExit(f"error: {describe(error)}") from error
    made = ", ".join(str(out / name) for name in settings.branches)
    print(f"done: {made}; a checkpoint is shipped by a copy in src/asyndm/shapes/weights/")


def main() -> None:
    """The command line.

    Raises:
        SystemExit: with one line where a setting is wrong.
    """
    register()
    try:
        with raise_hydra_errors():
            _train()
    except (HydraException, OmegaConfBaseException) as error:
        raise SystemExit(f"error: {describe(error)}") from error
