"""What a run's sampler is watched with: how it went, for the pictures' traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from asyndm.protocols import Pipeline
from evaluation.runs.traces import Trace, choose_steps, make_trace

if TYPE_CHECKING:
    from torch import Tensor

    from asyndm import StepRecord


class Tracer:
    """Keeps what `evaluation.runs.traces` shows of some steps, as the sampler's callback, on the
    device until the end."""

    def __init__(self, num_inference_steps: int, previews: int) -> None:
        self.steps = choose_steps(num_inference_steps)
        self.previews = previews
        self.flow = False
        self.timesteps: dict[int, list[Tensor]] = {}
        self.weights: dict[int, list[Tensor]] = {}
        self.samples: dict[int, list[Tensor]] = {}
        self._rows = dict[tuple[int, ...], Counter[str]]()

    @property
    def rows(self) -> Counter[str]:
        """Of the batch that the network was called with, and those it was differentiated for."""
        return sum(self._rows.values(), Counter[str]())

    def __call__(self, record: StepRecord) -> None:
        self._rows[tuple(record.images)] = Counter(
            rows=record.evaluations, backward=record.backward_evaluations
        )
        if record.step not in self.steps:
            return
        self.flow = record.flow
        for row, image in enumerate(record.images):
            self.timesteps.setdefault(image, []).append(record.timesteps[row])
            self.weights.setdefault(image, []).append(record.weights[row])
            if image < self.previews:
                self.samples.setdefault(image, []).append(record.sample[row])

    def traces(self) -> list[Trace]:
        """The way of each picture of the batch; of fewer evaluations than asked for (image to
        image) those made."""
        return [
            make_trace(
                self.steps[: len(self.timesteps[i])],
                _stack_steps(self.timesteps[i]),
                _stack_steps(self.weights[i]),
                self.flow,
            )
            for i in sorted(self.timesteps)
        ]

    def decode(self, pipe: Pipeline) -> list[list[Image.Image]]:
        """The predicted clean pictures of the first images, one at each step kept."""
        import torch

        from asyndm.previews import decode as decode_latents

        frames = []
        for i, samples in sorted(self.samples.items()):
            height, width = self.timesteps[i][0].shape
            frames.append(decode_latents(pipe, torch.stack(samples), (height, width)))
        return frames


def _stack_steps(steps: Sequence[Tensor]) -> Any:
    import torch

    return torch.stack(list(steps)).cpu().double().numpy()  # one wait for the device
