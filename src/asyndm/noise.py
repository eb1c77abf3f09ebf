"""The draws of noise, each of an image's own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from asyndm.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None


def draw_noise(like: Tensor, generators: Generators) -> Tensor:
    """Standard normal noise, float32 whatever the pipeline computes in: the same draws.

    Where generators of the CPU draw for a GPU, the noise is copied from memory that it reads by
    itself, so that no step waits for it.
    """
    own = list(generators) if isinstance(generators, Sequence) else generators
    first = own[0] if isinstance(own, list) else own
    there = like.device
    is_copied = first is not None and first.device.type == "cpu" and first.device != there
    is_copied &= there.type != "mps"  # which has no such memory
    noise: Tensor = randn_tensor(
        tuple(like.shape),
        generator=own,
        device=torch.device("cpu") if is_copied else there,
        dtype=torch.float32,
    )
    return noise.pin_memory().to(there, non_blocking=True) if is_copied else noise


class SpareNoise:
    """Noise that follows all that the steps of a run draw, so that those stay what they are.

    Args:
        generators: one an image; None: not known.
        steps: N.
    """

    def __init__(self, generators: Sequence[torch.Generator] | None, steps: int) -> None:
        self._generators, self._steps = generators, steps
        self._ahead: list[torch.Generator] | None = None

    def draw(self, like: Tensor, done: int) -> Tensor:
        """The next of it.

        Args:
            done: how many steps have drawn theirs.

        Raises:
            UserError: the generators are not known.
        """
        if self._generators is None:
            raise UserError(
                "this guidance draws noise of its own, from each image's generator: "
                "use asyndm.sample, which makes them"
            )
        if self._ahead is None:
            self._ahead = [_copy_generator(generator) for generator in self._generators]
            for _ in range(self._steps - done):
                draw_noise(like, self._ahead)
        return draw_noise(like, self._ahead)


def _copy_generator(generator: torch.Generator) -> torch.Generator:
    return torch.Generator(generator.device).set_state(generator.get_state())
