"""What guidances do to the perturbed rows of a network's batch: hooks for the length of a call of
the pipeline."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asyndm.errors import UserError
from asyndm.guidance.base import Rows
from asyndm.hooks import Hooks, Watch
from asyndm.protocols import Network

BLOCKS = "transformer_blocks"
ENDLESS = 9999
"""The σ from which on a blur is the mean."""

Layer = TypeVar("Layer", bound=nn.Module)


class Perturbation(Hooks):
    """Hooks that change the perturbed rows, and no others, in some layers of a network.

    Args:
        name: of the guidance.
        layers: by name.
    """

    def __init__(self, name: str, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.name, self.by_name = name, dict(layers)
        self.rows: slice | None = None
        self.grid = (0, 0)
        self._reached: set[nn.Module] = set()

    @property
    def layers(self) -> list[nn.Module]:
        """Those with hooks in them, which must not be compiled."""
        return list(self.by_name.values())

    def _attach(self) -> Iterator[RemovableHandle]:
        for layer in self.layers:
            yield from self._hook(layer)

    def _forget(self) -> None:
        self.rows = None

    def begin(self, rows: Rows, grid: tuple[int, int]) -> None:
        """The rows to perturb in the next evaluation."""
        self.rows, self.grid = rows.perturbed, grid
        self._reached.clear()

    def end(self) -> None:
        """It is over.

        Raises:
            UserError: a layer was not perturbed.
        """
        missed = [name for name, layer in self.by_name.items() if layer not in self._reached]
        if self.rows is not None and missed:
            raise UserError(
                f"guidance={self.name}: {missed[0]} ran, if at all, past its hooks (compiled, or "
                "with an attention backend of its own): give the pipeline as it was loaded"
            )
        self.rows = None

    @abstractmethod
    def _hook(self, layer: Network) -> list[RemovableHandle]:
        """Hooks that change the rows while there are some, and note that the layer was reached."""

    def _replace(self, whole: Tensor, part: Tensor, layer: nn.Module) -> Tensor:
        """The tensor of all rows with this in the place of the perturbed ones."""
        assert self.rows is not None
        self._reached.add(layer)
        changed = whole.clone()
        changed[self.rows] = part.to(whole.dtype)
        return changed


class IdentityAttention(Perturbation):
    """Self-attention gives back its values, as with an attention matrix of ones on the diagonal."""

    def _hook(self, layer: Network) -> list[RemovableHandle]:
        values: list[Tensor] = []

        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            if self.rows is not None:
                values[:] = [output[self.rows][..., -layer.inner_kv_dim :]]

        def swap(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if self.rows is None or not values:
                return None
            return (self._replace(args[0], values.pop(), layer), *args[1:])

        project = [each.register_forward_hook(keep) for each in find_projections(layer, "to_v")]
        return [*project, layer.to_out[0].register_forward_pre_hook(swap)]


class BlurredQueries(Perturbation):
    """The queries of self-attention are blurred over the picture, all heads and channels alike.

    Args:
        sigma: σ of the Gaussian, in tokens.
    """

    def __init__(self, name: str, layers: Mapping[str, nn.Module], sigma: float) -> None:
        super().__init__(name, layers)
        self.sigma = sigma

    def _hook(self, layer: Network) -> list[RemovableHandle]:
        def blur(module: nn.Module, args: object, output: Tensor) -> Tensor | None:
            if self.rows is None:
                return None
            part = output[self.rows].clone()
            part[..., : layer.inner_dim] = self._blur(part[..., : layer.inner_dim])
            return self._replace(output, part, layer)

        return [each.register_forward_hook(blur) for each in find_projections(layer, "to_q")]

    def _blur(self, query: Tensor) -> Tensor:
        """Queries (B, h w, C), blurred."""
        height, width = find_map_size(query.shape[1], self.grid)
        down, across = (
            make_blur(size, self.sigma).to(query.device, query.dtype) for size in (height, width)
        )
        columns = down @ query.reshape(len(query), height, -1)
        return (across @ columns.view(len(query), height, width, -1)).flatten(1, 2)


class IdentityJointAttention(Perturbation):
    """Image tokens attend to themselves and to the text, and not to each other; the image comes
    first in the sequence. Self-attention of the image beside it gives back its values."""

    def __init__(self, name: str, layers: Mapping[str, nn.Module]) -> None:
        super().__init__(name, layers)
        self._watches: list[_Watch] = []

    def _forget(self) -> None:
        super()._forget()
        while self._watches:  # Ctrl-C passes by the hook that ends one
            self._watches.pop().end()

    def _hook(self, layer: Network) -> list[RemovableHandle]:
        watch = _Watch(self, layer)
        self._watches.append(watch)

        def enter(module: nn.Module, args: object, kwargs: object) -> None:
            if self.rows is not None:
                watch.begin()

        def leave(module: nn.Module, args: object, output: object) -> None:
            watch.end()

        return [
            layer.register_forward_pre_hook(enter, with_kwargs=True),
            layer.register_forward_hook(leave, always_call=True),
        ]

    def perturb(self, layer: nn.Module, output: Tensor, call: Mapping[str, Any]) -> Tensor:
        """What attention gives, (B, heads, length, d), where its rows are perturbed."""
        assert self.rows is not None
        n = self.grid[0] * self.grid[1]
        query, key, value = (call[each][self.rows] for each in ("query", "key", "value"))
        scale = call.get("scale") or query.shape[-1] ** -0.5
        image, text = slice(0, n), slice(n, None)
        own = (query[:, :, image] * key[:, :, image]).sum(-1, keepdim=True)
        others = query[:, :, image] @ key[:, :, text].transpose(-1, -2)
        share = (torch.cat([own, others], dim=-1).float() * scale).softmax(-1).to(value.dtype)
        part = output[self.rows].clone()
        part[:, :, image] = share[..., :1] * value[:, :, image] + share[..., 1:] @ value[:, :, text]
        return self._replace(output, part, layer)


class _Watch(Watch):
    """Hands what the first attention inside one layer gives to its perturbation."""

    def __init__(self, perturbation: IdentityJointAttention, layer: nn.Module) -> None:
        super().__init__()
        self._perturbation, self._layer = perturbation, layer

    def __torch_function__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        rows = self._perturbation.rows
        if not self.waiting or func is not F.scaled_dot_product_attention or rows is None:
            return output
        call = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        # A reader of attention calls it as well, on fewer rows.
        if len(call["query"]) < rows.stop:
            return output
        self.waiting = False
        return self._perturbation.perturb(self._layer, output, call)


class SkippedBlocks(Perturbation):
    """Blocks of a transformer give back what they are given, image and text."""

    def _hook(self, layer: Network) -> list[RemovableHandle]:
        def skip(
            module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
        ) -> Any:
            if self.rows is None:
                return None
            given = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False))
            given |= kwargs
            inputs = given["encoder_hidden_states"], given["hidden_states"]
            return tuple(
                None if made is None else self._replace(made, each[self.rows], layer)
                for made, each in zip(output, inputs, strict=True)
            )

        return [layer.register_forward_hook(skip, with_kwargs=True)]


def find_projections(layer: Network, name: str) -> list[nn.Module]:
    """What may project queries, or values: apart, or all together, the queries first and the values
    last. A layer has both once it was fused, and runs one."""
    return [getattr(layer, each) for each in (name, "to_qkv") if hasattr(layer, each)]


def is_transformer(network: Network) -> bool:
    """Whether it is a row of blocks, rather than a UNet."""
    return hasattr(network, BLOCKS)


def find_attention(network: Network, asked: Sequence[str | int]) -> dict[str, nn.Module]:
    """The self-attention layers of a network that are asked for, by name.

    Raises:
        UserError: there is none of one of them.
    """
    layers: dict[str, nn.Module] = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Attention) and not module.is_cross_attention
    }
    return _choose(asked, layers)


def find_blocks(network: Network, asked: Sequence[int]) -> dict[str, nn.Module]:
    """The blocks of a transformer that are asked for, by number: those of two streams, and then
    those of one.

    Raises:
        UserError: there is none of one of them.
    """
    single = getattr(network, f"single_{BLOCKS}", ())
    blocks = [*getattr(network, BLOCKS), *single]
    return _choose(asked, {f"{BLOCKS}.{i}": block for i, block in enumerate(blocks)})


def _choose(asked: Sequence[str | int], layers: Mapping[str, Layer]) -> dict[str, Layer]:
    chosen: dict[str, Layer] = {}
    for layer in asked:
        part = f"{_spell(layer)}."
        found = {
            name: module
            for name, module in layers.items()
            # A number is a block of a transformer, not the transformer within a block of a UNet.
            if f"{name}.".startswith(part) or (isinstance(layer, str) and f".{part}" in f".{name}.")
        }
        if not found:
            there = ", ".join(dict.fromkeys(map(_name_block, layers)))
            raise UserError(f"guidance.layers: the network has no layer {layer!r}; it has {there}")
        chosen |= found
    return chosen


def _spell(layer: str | int) -> str:
    """The part of a module's name that a layer is chosen by: "down.1" is "down_blocks.1"."""
    if not isinstance(layer, str):
        return f"{BLOCKS}.{layer}"
    first, dot, rest = layer.partition(".")
    block = {"mid": "mid_block", "down": "down_blocks", "up": "up_blocks"}.get(first, first)
    return f"{block}{dot}{rest}"


def _name_block(name: str) -> str:
    """What a layer can be chosen by, without what is inside it: "mid", "down.1", or a number."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    if first == BLOCKS:
        return number
    short = first.removesuffix("_block").removesuffix("_blocks")
    return short if first == "mid_block" else f"{short}.{number}"


def find_map_size(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a layer's picture with so many tokens: the latents' size, halved and rounded up as
    often as it takes."""
    height, width = grid
    while height * width > tokens and max(height, width) > 1:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        raise UserError(
            f"guidance=seg: a layer has {tokens} tokens, which latents of {grid[0]}x{grid[1]} "
            "cannot be halved to: choose other guidance.layers"
        )
    return height, width


def make_blur(size: int, sigma: float) -> Tensor:
    """A Gaussian blur along one side of a picture, reflected at its ends: (size, size), float64, by
    which columns are multiplied."""
    if sigma > ENDLESS:
        return torch.full((size, size), 1 / size, dtype=torch.float64)
    taps = math.ceil(6 * sigma)
    taps = min(taps + 1 - taps % 2, size - 1 + size % 2)
    offsets = torch.arange(taps) - taps // 2
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    places = (torch.arange(size)[:, None] + offsets).abs()
    places = torch.minimum(places, 2 * (size - 1) - places)
    weights = (kernel / kernel.sum()).expand(size, -1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, places, weights)
