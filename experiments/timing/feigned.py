"""A GPU feigned on a CPU: who would wait for it, and who would mix its tensors with others.

A GPU works through what it is given while the program goes on, until that asks for a number: then
it waits, and the GPU idles after it. On a CPU nothing of that is seen; but which tensors would lie
on the GPU is known, since what is computed from them does too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

NEAR, FAR = torch.device("cpu", 0), torch.device("cpu")
"""The feigned GPU and the host: both the CPU, under names that are not equal."""
aten = torch.ops.aten
SIZED_BY_VALUES = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.equal,
    aten.bincount,
}
"""What has a result, or one of a shape, that only the values tell."""
TO_HOST = {Tensor.cpu, Tensor.tolist, Tensor.numpy, Tensor.__array__}
FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray}


class FeignedGPU:
    """Counts the waits for a GPU on which these tensors lie, while it is entered.

    Attributes:
        waits: how often the program waited, by the function that it waited in.
        mixed: functions that were given tensors of both, which a GPU refuses.
        pinned: tensors of the host that a GPU reads by itself.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.waits = Counter[str]()
        self.mixed: list[str] = []
        # References keep addresses from being given to another storage.
        self._near: dict[int, StorageWeakRef] = {}
        self.pinned = WeakTensorKeyDictionary()
        self.put(tensors)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """What torch does inside is watched."""
        with ExitStack() as stack:
            stack.enter_context(_Kernels(self))
            stack.enter_context(_Calls(self))
            yield

    def put(self, tensors: Iterable[Any]) -> None:
        """These lie there, and all views of them."""
        with torch._C.DisableTorchFunction():
            for tensor in tensors:
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    self._near[storage._cdata] = StorageWeakRef(storage)

    def holds(self, tensor: object) -> bool:
        """Whether a tensor lies there."""
        with torch._C.DisableTorchFunction():
            return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self._near


class _Kernels(TorchDispatchMode):
    """Sees the kernels."""

    def __init__(self, gpu: FeignedGPU) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        gpu, kwargs = self._gpu, kwargs or {}
        values = _flatten((args, tuple(kwargs.values())))
        given = [each for each in values if isinstance(each, Tensor)]
        near = [each for each in given if gpu.holds(each)]
        if near:
            self._judge(func, args, [each for each in given if not gpu.holds(each)])
        made = func(*args, **kwargs)
        if near and func.overloadpacket is not aten.copy_:
            gpu.put(_flatten((made,)))
        return made

    def _judge(self, func: Any, args: Sequence[Any], far: Sequence[Tensor]) -> None:
        kernel, name = func.overloadpacket, str(func.overloadpacket)
        indexes = kernel in (aten.index, aten.index_put, aten.index_put_)
        by_mask = indexes and any(each is not None and each.dtype == torch.bool for each in args[1])
        if kernel in SIZED_BY_VALUES or by_mask or func is aten.repeat_interleave.Tensor:
            self._gpu.waits[name] += 1
        elif far and (kernel is aten.copy_ or indexes):
            self._gpu.waits[f"{name} (copied)"] += 1
        elif any(each.ndim for each in far):
            self._gpu.mixed.append(name)


class _Calls(TorchFunctionMode):
    """Sees what the program calls: where tensors are moved, and numbers put into them."""

    def __init__(self, gpu: FeignedGPU) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        gpu, kwargs = self._gpu, kwargs or {}
        first = args[0] if args else None
        if func == Tensor.device.__get__:
            return NEAR if gpu.holds(first) else FAR
        if func is Tensor.pin_memory and not gpu.holds(first):
            pinned: Tensor = args[0].clone()
            gpu.pinned[pinned] = True
            return pinned
        target = self._find_target(func, args, kwargs)
        was_near = gpu.holds(first)
        made = func(*args, **kwargs)
        if target is None or not isinstance(made, Tensor):
            if was_near and func in TO_HOST:
                gpu.waits[func.__name__] += 1
            return made
        is_near = target == NEAR
        copies = isinstance(first, Tensor) or func in FROM_NUMBERS
        # diffusers draws with a generator of the CPU there, and moves what was drawn.
        drawn = is_near and kwargs.get("generator") is not None
        waits = not (kwargs.get("non_blocking") and first in gpu.pinned)
        if drawn or (copies and was_near != is_near and waits):
            gpu.waits[f"{func.__name__} (copied)"] += 1
        if gpu.holds(made) != is_near:
            with torch._C._DisableTorchDispatch():
                made = made.clone()  # to the CPU both are one, and nothing was moved
            if is_near:
                gpu.put([made])
        return made

    def _find_target(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> torch.device | None:
        """Where the result is to lie, if the call says so."""
        if func is Tensor.cpu:
            return FAR
        device = kwargs.get("device")
        if func is Tensor.to and device is None:
            for each in (*args[1:], kwargs.get("other")):
                if isinstance(each, (str, torch.device)):
                    device = each
                elif isinstance(each, Tensor):
                    device = NEAR if self._gpu.holds(each) else FAR
        return None if device is None else torch.device(device)


def _flatten(values: Iterable[Any]) -> Iterator[Any]:
    for each in values:
        if isinstance(each, (tuple, list)):
            yield from _flatten(each)
        else:
            yield each
