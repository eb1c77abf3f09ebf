"""Train the embedded models from nothing: autoencoder, pictures, a common trunk, then the two checkpoints.

    python -m experiments.train_shapes                    # about 110 minutes on two CPU cores
    python -m experiments.train_shapes trunk.seconds=300  # quicker and worse
    python -m experiments.train_shapes start_from=src/asyndm/shapes/weights/shapes  # longer and better

Stages whose output is in `out` are not repeated, so an interrupted training goes on. The results are diffusers
folders, `out`/shapes and `out`/shapes_mixed, with a record of each stage in a JSON file beside them.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf


@hydra.main(version_base="1.3", config_path="../../conf", config_name="train_shapes")
def main(cfg: DictConfig) -> None:
    """Hydra's entry point."""
    from experiments.train_shapes.stages import train

    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    out = Path(cfg.out).resolve()
    train(out, {str(k): v for k, v in settings.items()})
    print(f"done: copy {out}/shapes and {out}/shapes_mixed over src/asyndm/shapes/weights/ to ship them")


if __name__ == "__main__":
    main()
