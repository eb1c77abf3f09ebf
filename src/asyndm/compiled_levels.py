"""A timestep for every token of a network that torch.compile has compiled.

Dynamo loses what an instance of a tensor's subclass carries, but not what its class does. So a
compiled network has a class of rows of its own, which carries which row each token takes: tensors,
the inputs of its graph, in which no number of a prompt, a mask or a step is a constant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module

from asyndm.levels import Grid, TimeRows, TokenRows, compute

Kind = TypeVar("Kind", bound=Tensor)

_classes: WeakKeyDictionary[Module, dict[object, Any]] = WeakKeyDictionary()


class CompiledRows(TimeRows):
    """Rows that dynamo follows. Those of one network are of a subclass, see `find_class`."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func.__name__ == "__get__":  # shape, dtype, device and the like
                return func(*args)

            def wrap(rows: Tensor, table: TokenRows) -> Tensor:
                return rows.as_subclass(cls)

            return compute(func, args, kwargs or {}, cls.token_rows, wrap)

    @classmethod
    def insert(cls, rows: Tensor, token_rows: TokenRows) -> Tensor:
        """These rows, for those tokens, at the next call of the network.

        There are two of them at least, and as many as there are for one graph.
        """
        sample = token_rows.sample
        if len(rows) == 1:  # a single one would be a constant of the graph
            rows, sample = rows.repeat(2), sample.repeat(2)
        grids = _add_coarser(token_rows.rows) if token_rows.picture else token_rows.rows
        cls.token_rows = TokenRows(token_rows.network, token_rows.batch, sample, grids)
        made = rows.as_subclass(cls)
        for each in (made, sample):
            torch._dynamo.maybe_mark_dynamic(each, 0)
        return made

    @classmethod
    def forget(cls) -> None:
        """The call is over."""
        if "token_rows" in vars(cls):
            del cls.token_rows


def find_class(kind: type[Kind], network: Module, read: Iterable[Module] = ()) -> type[Kind]:
    """The subclass that is for one compiled network, or for what is read in it: dynamo, which does
    not see hooks, takes its graphs by their class. At each call the same, or each would be compiled
    anew."""
    made, key = _classes.setdefault(network, {}), (kind, *map(id, read))
    if key not in made:
        made[key] = type(kind.__name__, (kind,), {})
    found: type[Kind] = made[key]
    return found


def _add_coarser(rows: dict[Grid, Tensor]) -> dict[Grid, Tensor]:
    """The grids of pictures with all those halved from them, which `TokenRows.find` would make in
    the network."""
    made = dict(rows)
    for grid, cells in rows.items():
        while max(grid) > 1:
            cells = cells[:, ::2, ::2]
            grid = (cells.shape[1], cells.shape[2])
            made[grid] = cells.contiguous()
    return made
