"""Reading attention in the graph of a compiled network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asyndm.attention import AttentionMaps, FusedMaps, Tokens
from asyndm.compiled_levels import find_class
from asyndm.protocols import Network


class WatchedQuery(Tensor):
    """The queries of a layer on their way to ``scaled_dot_product_attention``, which the reader
    sees there: dynamo follows a tensor, and no mode that a hook begins and ends. Those of one
    network are of a subclass, see `find_class`.
    """

    reader: ClassVar[FusedMaps | None] = None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.scaled_dot_product_attention and cls.reader is not None:
                cls.reader.read_call(*args, **kwargs)
                return func(*args, **kwargs)
            made = func(*args, **kwargs)
            return made if func.__name__ == "__get__" else _wrap(made, cls)


class TracedMaps(FusedMaps):
    """As `FusedMaps`, by functions that dynamo follows."""

    def __init__(
        self,
        layers: Sequence[nn.Module],
        tokens: Tokens,
        text_first: bool | None,
        keys: str,
        queries: type[WatchedQuery],
    ) -> None:
        super().__init__(layers, tokens, text_first, keys)
        self._queries = queries

    def _forget(self) -> None:
        super()._forget()
        self._queries.reader = None

    def _hook(self, layer: Network) -> list[RemovableHandle]:
        queries = self._queries
        queries.reader = self

        def begin(module: nn.Module, args: object, query: Tensor) -> Tensor | None:
            return None if self._rows is None else query.as_subclass(queries)

        # As late as can be: methods that torch has written in Python (unflatten) are followed on no
        # subclass.
        last = layer.norm_q
        if last is None:
            last = layer.to_qkv if layer.fused_projections else layer.to_q
        return [last.register_forward_hook(begin)]


def make_traceable(network: nn.Module, reader: AttentionMaps) -> AttentionMaps:
    """The reader of the same layers, in the graph of a compiled network."""
    if not isinstance(reader, FusedMaps):
        return reader
    queries = find_class(WatchedQuery, network, reader.layers)
    return TracedMaps(reader.layers, reader.tokens, reader.text_first, reader.keys, queries)


def _wrap(made: Any, cls: type[WatchedQuery]) -> Any:
    if isinstance(made, (tuple, list)) and not isinstance(made, torch.Size):
        return type(made)([_wrap(each, cls) for each in made])
    return made.as_subclass(cls) if isinstance(made, Tensor) else made
