"""A stock UNet with its texts as the network of the algorithm: hooked, guided, its attention read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from asyndm.attention import CrossAttentionMaps
from asyndm.conditioning.unet import PerPixelTime


class GuidedNetwork:
    """A stock UNet with its texts, as a ``Network``: hooked while the context lasts, guided, in one forward.

    output = uncond + g (cond - uncond), in float32; without ``uncond`` the conditional output alone.

    Args:
        unet: a stock ``UNet2DConditionModel``.
        cond: (B, L, D) text embeddings.
        uncond: (B, L, D) for guidance; None: no guidance.
        guidance_scale: g.
        tokens: for each image, for each subject, its token positions; None: attention is not read.
        attention_factor: latent size over map size, see ``CrossAttentionMaps``.
        num_train_timesteps: T.
        one_by_one: evaluate one image after another: the same arithmetic, to the bit, in any company.
    """

    def __init__(
        self,
        unet: Any,
        cond: Tensor,
        uncond: Tensor | None = None,
        guidance_scale: float = 1.0,
        tokens: Sequence[Sequence[Sequence[int]]] | None = None,
        attention_factor: int | None = None,
        num_train_timesteps: int = 1000,
        one_by_one: bool = False,
    ) -> None:
        self._unet = unet
        self._guidance_scale = guidance_scale
        self._guided = uncond is not None
        self._time = PerPixelTime(unet, num_train_timesteps)
        self._ignored_timestep = torch.zeros((), dtype=torch.long, device=cond.device)
        self._groups = [slice(i, i + 1) for i in range(len(cond))] if one_by_one else [slice(0, len(cond))]
        self._texts = [
            cond[group] if uncond is None else torch.cat([uncond[group], cond[group]])
            for group in self._groups
        ]
        self._attentions: list[CrossAttentionMaps | None] = [None] * len(self._groups)
        if tokens is not None:
            longest = max(map(len, tokens))
            padded = [[*subjects, *[()] * (longest - len(subjects))] for subjects in tokens]
            self._attentions = [
                CrossAttentionMaps(unet, padded[group], attention_factor, self._guided)
                for group in self._groups
            ]

    def __enter__(self) -> Self:
        self._time.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._time.__exit__(kind, error, trace)

    def __call__(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        parts = [
            self._evaluate(x[group], index[group], text, attention)
            for group, text, attention in zip(self._groups, self._texts, self._attentions, strict=True)
        ]
        output = torch.cat([part for part, _ in parts])
        maps = [part for _, part in parts if part is not None]
        return output, torch.cat(maps) if maps else None

    def _evaluate(
        self, x: Tensor, index: Tensor, text: Tensor, attention: CrossAttentionMaps | None
    ) -> tuple[Tensor, Tensor | None]:
        self._time.set(index)
        x = x.to(text.dtype).repeat(2 if self._guided else 1, 1, 1, 1)
        with attention or nullcontext():
            output = self._unet(x, self._ignored_timestep, encoder_hidden_states=text, return_dict=False)[
                0
            ].float()
        if self._guided:
            uncond, cond = output.chunk(2)
            output = uncond + self._guidance_scale * (cond - uncond)
        return output, None if attention is None else attention.maps()
