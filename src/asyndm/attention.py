"""Reading cross-attention maps off a stock ``UNet2DConditionModel``, by removable hooks."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asyndm.errors import UserError, is_whole

PREFERRED_FACTOR = 4


class CrossAttentionMaps:
    """Where each subject's words are attended to, while the context lasts.

    The map of a subject is softmax(QKᵀ/√d) at its token positions, averaged over those tokens, over the
    heads and over all cross-attention layers of one resolution. Queries and keys are taken from the
    outputs of ``to_q`` and ``to_k``; the network's own (fused) attention runs untouched beside it.

    Example::

        with CrossAttentionMaps(unet, tokens=[[[2], [5, 6]]]) as attention:
            unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([uncond, cond]))
            maps = attention.maps()              # (1, 2, H/4, W/4)

    Args:
        unet: a stock network with cross-attention.
        tokens: for each image, for each of its subjects, the positions of its tokens in the text; a subject
            without any has a zero map.
        factor: latent size over map size. None: 4 if the network attends there, else the finest it has.
        conditional_half: the network's batch is [unconditional; conditional], and only the second half
            is read. False: the whole batch is conditional.

    Raises:
        UserError: no cross-attention at this factor, or a batch of another size than ``tokens`` says.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        tokens: Sequence[Sequence[Sequence[int]]],
        factor: int | None = None,
        conditional_half: bool = True,
    ) -> None:
        self._unet: Any = unet
        self._tokens = tokens
        self._copies = 2 if conditional_half else 1
        self.factor, self._layers = _layers_at(unet, factor)
        self._handles: list[RemovableHandle] = []
        self._size = (0, 0)
        self._queries: dict[nn.Module, Tensor] = {}
        self._maps: list[Tensor] = []
        self._weights: Tensor | None = None

    def __enter__(self) -> Self:
        self._handles.append(self._unet.register_forward_pre_hook(self._begin, with_kwargs=True))
        for layer in self._layers:
            key = layer.to_kv if layer.fused_projections else layer.to_k
            self._handles.append(layer.to_q.register_forward_hook(self._query_hook(layer)))
            self._handles.append(key.register_forward_hook(self._key_hook(layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._queries.clear()

    def maps(self) -> Tensor:
        """The maps of the network's last evaluation: (B, S, h, w), float32, differentiable.

        S is the largest number of subjects in the batch; images with fewer have zero maps at the end.
        """
        if not self._maps:
            raise UserError("no attention map yet: evaluate the network inside the context first")
        mean = torch.stack(self._maps).mean(0)
        return mean.transpose(1, 2).reshape(mean.shape[0], -1, *self._size)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        if sample.shape[0] != self._copies * len(self._tokens):
            raise UserError(
                f"the network's batch is {sample.shape[0]}, but tokens were given for {len(self._tokens)} images "
                f"({self._copies} rows each)"
            )
        self._size = (-(-sample.shape[-2] // self.factor), -(-sample.shape[-1] // self.factor))
        self._queries.clear()
        self._maps.clear()

    def _query_hook(self, layer: Attention) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
            self._queries[layer] = query[-len(self._tokens) :]

        return read

    def _key_hook(self, layer: Attention) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...], key: Tensor) -> None:
            key = key[-len(self._tokens) :]
            if layer.fused_projections:
                key = key.chunk(2, dim=-1)[0]
            self._maps.append(self._subject_maps(layer, self._queries.pop(layer), key))

        return read

    def _subject_maps(self, layer: Attention, query: Tensor, key: Tensor) -> Tensor:
        """(B, P, S): each subject's share of the attention of each of the P map pixels, mean over heads."""
        query, key = (x.view(*x.shape[:2], layer.heads, -1).transpose(1, 2) for x in (query, key))
        if layer.norm_q is not None:
            query = layer.norm_q(query)
        if layer.norm_k is not None:
            key = layer.norm_k(key)
        scale = query.shape[-1] ** -0.5
        scores = (query.float() * scale) @ key.float().transpose(-1, -2)
        share: Tensor = scores.softmax(dim=-1).mean(dim=1)
        if self._weights is None:
            self._weights = _token_weights(self._tokens, share.shape[-1]).to(share.device)
        return share @ self._weights


def _token_weights(tokens: Sequence[Sequence[Sequence[int]]], length: int) -> Tensor:
    """(B, length, S): 1/n at each of a subject's n token positions, so that a product is a mean."""
    weights = torch.zeros(len(tokens), length, max(len(subjects) for subjects in tokens))
    for image, subjects in enumerate(tokens):
        for subject, positions in enumerate(subjects):
            if max(positions, default=0) >= length:
                raise UserError(
                    f"subject {subject + 1} of image {image + 1} has token positions {list(positions)}, but the text "
                    f"has {length} tokens"
                )
            weights[image, list(positions), subject] = 1 / max(1, len(positions))
    return weights


def _layers_at(unet: UNet2DConditionModel, factor: int | None) -> tuple[int, list[Attention]]:
    """The cross-attention layers at one resolution, in network order."""
    layers = cross_attention_layers(unet)
    if not layers:
        raise UserError(
            "the network has no cross-attention: masks from attention need one (use another mask)"
        )
    if factor is not None and not is_whole(factor):
        raise UserError(f"attention_factor must be a whole number or None, got {factor!r}")
    if factor is None:
        factor = PREFERRED_FACTOR if PREFERRED_FACTOR in layers else min(layers)
    if factor not in layers:
        raise UserError(
            f"attention_factor={factor}: the network has cross-attention only at "
            f"{', '.join(map(str, sorted(layers)))} (latent size over map size)"
        )
    return factor, layers[factor]


def cross_attention_layers(unet: UNet2DConditionModel) -> dict[int, list[Attention]]:
    """All cross-attention layers of a network by factor: latent size over the size the layer works at."""
    layers: dict[int, list[Attention]] = {}

    def collect(block: nn.Module, factor: int) -> None:
        found = [m for m in block.modules() if isinstance(m, Attention) and m.is_cross_attention]
        if found:
            layers.setdefault(factor, []).extend(found)

    network: Any = unet
    factor = 1
    for block in network.down_blocks:
        collect(block, factor)
        factor *= 2 if getattr(block, "downsamplers", None) else 1
    if network.mid_block is not None:
        collect(network.mid_block, factor)
    for block in network.up_blocks:
        collect(block, factor)
        factor //= 2 if getattr(block, "upsamplers", None) else 1
    return layers
