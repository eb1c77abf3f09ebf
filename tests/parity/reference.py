"""A folder of numbers recorded from the method's reference implementation.

cases.json describes the networks, the scheduler and every case; the safetensors beside it hold the
tensors. Read that file for their shapes. Nothing about a particular folder is known here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor

from asyndm.curves import Curve, Exponential, PiecewiseLinear, Quadratic

TIMESTEPS = 1e-3
"""Agreement of one update's float timesteps, and the distance from a half within which either
rounding is right."""
DRIFT = 5e-3
"""What the reference's float32 state may gather over a whole trajectory (1.3e-3 was seen)."""

CURVES: dict[str, type[Curve]] = {"bin": Quadratic, "lin": PiecewiseLinear, "exp": Exponential}


@dataclass(frozen=True)
class Case:
    """One recorded run: its settings, and its tensors by their short names."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def id(self) -> str:
        return str(self.settings["id"])

    @property
    def mode(self) -> str:
        return str(self.settings["mode"])

    @property
    def steps(self) -> int:
        return int(self.settings["num_steps"])

    @property
    def curve(self) -> Curve:
        """DM has none recorded; any will do where no pixel is on the curve."""
        return CURVES[self.settings.get("curve", "bin")]()

    @property
    def concavities(self) -> list[float]:
        return list(self.settings["item_k"])

    @property
    def tokens(self) -> list[int]:
        """Words are counted from 0, tokens from the start token."""
        return [word + 1 for word in self.settings.get("item_idx", [])]


class Reference:
    """The numbers of one folder, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / "cases.json").read_text())
        self._pipes: dict[str, StableDiffusionPipeline] = {}

    @property
    def case_ids(self) -> list[str]:
        return [case["id"] for case in self.about["cases"]]

    @cached_property
    def curves(self) -> dict[str, Any]:
        numbers: dict[str, Any] = json.loads((self.folder / "curves.json").read_text())
        return numbers

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return {
            name: tensor.float()
            for name, tensor in load_file(self.folder / "inputs.safetensors").items()
        }

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name in ("cases", "finals", "per_step"):
            file = self.folder / f"{name}.safetensors"
            if file.is_file():
                tensors |= load_file(file)
        return tensors

    def case(self, case_id: str) -> Case:
        settings = next(case for case in self.about["cases"] if case["id"] == case_id)
        own = {
            key.rsplit(".", 1)[1]: t
            for key, t in self._tensors.items()
            if key.rsplit(".", 1)[0] == case_id
        }
        return Case(settings, own)

    def pipe(self, name: str) -> StableDiffusionPipeline:
        """A stock pipeline of one network, without what reads text; its autoencoder (of factor 8)
        is never used."""
        if name not in self._pipes:
            pipe = StableDiffusionPipeline(
                vae=AutoencoderKL(
                    block_out_channels=(4,) * 4,
                    down_block_types=("DownEncoderBlock2D",) * 4,
                    up_block_types=("UpDecoderBlock2D",) * 4,
                    norm_num_groups=4,
                ),
                text_encoder=None,
                tokenizer=None,
                unet=self._unet(name),
                scheduler=DDIMScheduler(**self.about["scheduler"]),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            pipe.set_progress_bar_config(disable=True)
            self._pipes[name] = pipe
        return self._pipes[name]

    def _unet(self, name: str) -> UNet2DConditionModel:
        unet = UNet2DConditionModel(**self.about[f"{name}_config"]).eval()
        weights = load_file(self.folder / f"{name}.safetensors")
        unet.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
        return unet

    @property
    def train_timesteps(self) -> int:
        """T."""
        return int(self.about["scheduler"]["num_train_timesteps"])

    @property
    def last_timestep(self) -> int:
        """t_end."""
        return int(self.about["scheduler"]["steps_offset"])

    def to_rungs(self, timesteps: Tensor, steps: int) -> Tensor:
        """Timesteps as places on the straight line of N steps: u = (t - t_end)/(T/N), float64."""
        return (timesteps.double() - self.last_timestep) / (self.train_timesteps / steps)

    def to_timesteps(self, rungs: Tensor, steps: int) -> Tensor:
        """The other way."""
        return self.last_timestep + rungs * (self.train_timesteps / steps)


def is_near_half(recorded: Tensor, distance: float = TIMESTEPS) -> Tensor:
    """Where a recorded timestep is so near a half that either rounding is right."""
    return ((recorded.double() % 1) - 0.5).abs() <= distance


def to_blocks(x: Tensor, like: Tensor) -> Tensor:
    """The top-left pixel of each block of a latent map, at the recorded resolution."""
    return x[..., :: x.shape[-2] // like.shape[-2], :: x.shape[-1] // like.shape[-1]]


def to_pixels(blocks: Tensor, size: tuple[int, int]) -> Tensor:
    """Recorded blocks repeated over the latent pixels they stand for."""
    rows = blocks.repeat_interleave(size[0] // blocks.shape[-2], -2)
    return rows.repeat_interleave(size[1] // blocks.shape[-1], -1)


def measure_relative(ours: Tensor, recorded: Tensor, scale: float | None = None) -> float:
    """The largest difference over the largest absolute value."""
    assert ours.shape == recorded.shape
    biggest = float(recorded.abs().max()) if scale is None else scale
    return float((ours - recorded).abs().max()) / biggest
