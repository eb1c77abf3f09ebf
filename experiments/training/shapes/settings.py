"""What conf/train_shapes.yaml may say, typed, and checked before anything is rendered."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from asyndm.errors import UserError
from asyndm.shapes.world import KINDS
from experiments.engine.resolvers import find_embedded

STAGES = frozenset(
    {"vae", "vae_polished", "autoencoder", "polish", "trunk", "settings", "rendezvous"}
)


class Slow(StrEnum):
    """What has a noise level of its own in mixed pictures: the objects, or any regions."""

    objects = "objects"
    anything = "anything"


@dataclass
class AutoencoderRecipe:
    """How long and how to train the autoencoder.

    Attributes:
        steps, seconds: whichever bound comes first; the learning rate follows it.
        kl_weight: of the divergence of the latents from a standard normal distribution.
        pool: number of pictures rendered once, from which batches are drawn.
        shares: how often each kind of prompt is drawn.
    """

    steps: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    kl_weight: float = MISSING
    pool: int = MISSING
    seconds: float = MISSING
    shares: dict[str, float] = MISSING


@dataclass
class Recipe:
    """How long and how to train the denoiser.

    Attributes:
        seconds: wall-clock budget; the learning rate follows the clock from `learning_rate` to
            `final_learning_rate`.
        batch_size: pictures a step and worker.
        warmup: steps over which the learning rate rises from 0.
        mixed_share: share of pictures that have several noise levels.
        slow: over which regions these are: see `experiments.training.shapes.levels`.
        grounding: weight of the attention loss.
        dropout: share of prompts replaced by the empty one, for classifier-free guidance.
        ema: decay of the average of the weights.
        lora_rank: of a branch, the rank of a LoRA that alone is trained; 0: all weights are.
    """

    seconds: float = MISSING
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    final_learning_rate: float = 1.5e-3
    warmup: int = 200
    mixed_share: float = 0.0
    slow: Slow = Slow.objects
    grounding: float = 0.004
    dropout: float = 0.1
    ema: float = 0.998
    lora_rank: int = 0


@dataclass
class Settings:
    """All of a training. `start_from` is a checkpoint whose latents are kept and whose networks are
    trained on, or if `fresh` only its autoencoder. With 0 seconds the trunk stays as it begins, and
    the decoder is not polished."""

    out: str = MISSING
    workers: int = MISSING
    seed: int = MISSING
    start_from: str | None = None
    fresh: bool = False
    pictures: int = MISSING
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    polish: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    trunk: Recipe = field(default_factory=Recipe)
    branches: dict[str, Recipe] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what would fail, or never end, hours later.

        Raises:
            UserError: the first thing that is wrong.
        """
        for name in self.branches:
            if name in STAGES or not re.fullmatch(r"\w+", name):
                raise UserError(
                    f"branches.{name}: a name of another stage's files, or none for a file"
                )
        _check_least(1, "", self, "workers", "pictures")
        _check_least(0, "", self, "seed")
        for name, autoencoder in {"autoencoder": self.autoencoder, "polish": self.polish}.items():
            _check_least(1, f"{name}.", autoencoder, "steps", "batch_size", "pool")
            _check_least(name == "autoencoder", f"{name}.", autoencoder, "seconds")
            _check_least(0, f"{name}.", autoencoder, "learning_rate", "kl_weight")
            _check_shares(f"{name}.shares", autoencoder.shares)
        self._check_recipe("trunk", self.trunk)
        if self.trunk.lora_rank:
            raise UserError(f"trunk.lora_rank={self.trunk.lora_rank}: a LoRA is of a branch")
        for name, recipe in self.branches.items():
            self._check_recipe(f"branches.{name}", recipe)
        start = self.start_from
        if start is not None and not (Path(start) / "model_index.json").is_file():
            raise UserError(f"start_from={start}: not a checkpoint (no model_index.json)")

    def _check_recipe(self, name: str, recipe: Recipe) -> None:
        _check_least(1, f"{name}.", recipe, "batch_size", "warmup")
        rates = ("learning_rate", "final_learning_rate")
        _check_least(0, f"{name}.", recipe, "seconds", *rates, "grounding", "lora_rank")
        if recipe.lora_rank and not find_spec("peft"):
            raise UserError(
                f"{name}.lora_rank={recipe.lora_rank}: needs pip install 'asyndm[lora]'"
            )
        if recipe.batch_size > self.pictures:
            raise UserError(
                f"pictures={self.pictures}: fewer than {name}.batch_size={recipe.batch_size}"
            )
        for key in ("mixed_share", "dropout", "ema"):
            if not 0 <= getattr(recipe, key) <= 1:
                raise UserError(f"{name}.{key}={getattr(recipe, key)}: must be between 0 and 1")


def _check_least(least: float, prefix: str, settings: object, *keys: str) -> None:
    for key in keys:
        value = getattr(settings, key)
        if not value >= least:
            raise UserError(f"{prefix}{key}={value}: must be at least {least:g}")


def _check_shares(name: str, shares: dict[str, float]) -> None:
    if unknown := set(shares) - set(KINDS):
        raise UserError(f"{name}.{min(unknown)}: no such kind; choose from {', '.join(KINDS)}")
    if min(shares.values(), default=0) < 0 or not sum(shares.values()):
        raise UserError(f"{name}: shares must not be negative, and not all 0")


def register() -> None:
    """Makes the schema known to Hydra, and where the embedded models are."""
    OmegaConf.register_new_resolver("embedded", find_embedded, replace=True)
    ConfigStore.instance().store(name="train_shapes_schema", node=Settings)
