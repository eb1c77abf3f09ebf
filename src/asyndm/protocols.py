"""What is used of the objects of diffusers and transformers, whose attributes are made at run time:
the border to untyped libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import torch

Arguments: TypeAlias = Mapping[str, Any]
"""Of a call of a pipeline or a network, by name."""
Images: TypeAlias = Any
"""What a pipeline returns as images: a list of PIL images, or one tensor or array."""
Network: TypeAlias = Any
"""A stock network. To a type checker each attribute of an `nn.Module` is ``Tensor | Module``, while
configs, blocks, numbers of heads and lists of them are read here."""
StockScheduler: TypeAlias = Any
"""A scheduler of diffusers. They share a config and ``set_timesteps``; which attributes hold the
noise levels, and whether there are any, differs from class to class."""


class Tokenizer(Protocol):
    """A tokenizer of transformers, fast or slow."""

    @property
    def is_fast(self) -> bool: ...

    @property
    def truncation_side(self) -> str: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def convert_ids_to_tokens(self, ids: int) -> Any: ...


class Pipeline(Protocol):
    """A stock pipeline of diffusers. Its networks, tokenizers and whatever else its class has are
    attributes that are made at run time, and may be absent."""

    scheduler: StockScheduler

    @property
    def components(self) -> Mapping[str, Any]: ...

    @property
    def _execution_device(self) -> torch.device: ...

    def maybe_free_model_hooks(self) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __getattr__(self, name: str) -> Any: ...
