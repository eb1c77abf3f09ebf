"""FLUX.2, Chroma, AuraFlow, CogView4, Lumina 2, Z-Image, HiDream and Hunyuan-DiT on their tiny
pipelines: what is asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import asyndm
from tests.library.networks.cases import build
from tests.pipelines.registry import PIPELINES

NAMES = (
    *("flux2", "flux2_klein", "chroma", "auraflow", "cogview4", "lumina2", "zimage", "hidream"),
    "hunyuandit",
)
PROMPTS = ("a rabbit on the carpet", "the red dog and a cat")
SUBJECTS = (("rabbit",), ("red dog", "cat"))
LONG = "a red house and a blue house and a dog in the red carpet and a rabbit"
SHAPES = {
    **dict.fromkeys(NAMES, (128, 192)),
    "zimage padded": (128, 160),
    "hidream square": (160, 160),
}
"""Pictures by their size, of which some need tokens that are no places of theirs."""


def run_call(
    name: str, prompts: tuple[str, ...] = PROMPTS, pipe: Any = None, **changes: Any
) -> Any:
    """The pipeline's latents; its prompts are a fresh list, as Z-Image writes into the one it is
    given."""
    tiny = PIPELINES[name]
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    return tiny.run(
        build(name) if pipe is None else pipe,
        list(prompts),
        **{"generator": generators, "output_type": "latent", **changes},
    )


def make_asynchronous(
    name: str, pipe: Any, prompts: tuple[str, ...], subjects: Any = None, **settings: Any
) -> AbstractContextManager[None]:
    """The pipeline is asynchronous; how it reads a prompt is stated as its call does."""
    return asyndm.asynchronous(
        pipe, list(prompts), subjects, **PIPELINES[name].arguments, **settings
    )


class Stop(Exception):
    pass


@contextmanager
def catch_first_call(network: nn.Module, end: bool = True) -> Iterator[list[Tensor]]:
    """The network's output at its first evaluation, after which the pipeline is left."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        made = output[0] if isinstance(output, tuple) else output.sample
        seen.append(torch.stack(list(made)).squeeze(2) if isinstance(made, list) else made)
        if end:
            raise Stop

    handle = network.register_forward_hook(keep)
    try:
        yield seen
    except Stop:
        pass
    finally:
        handle.remove()
