"""The border to transformers: what ``from_pretrained`` gives, or in one line why it fails."""

from __future__ import annotations

from typing import Any, TypeAlias

from asyndm.errors import UserError, join_lines
from asyndm.protocols import Network

Loader: TypeAlias = Any
"""A class with ``from_pretrained``."""
Part: TypeAlias = Any
"""What goes with a network: its tokenizer, transform of pictures, processor or config. What these
can do differs from class to class."""


def load_network(
    loader: Loader,
    model: str,
    place: str,
    optional: tuple[str, ...] = (),
    buffers: bool = True,
    **settings: Any,
) -> Network:
    """A network with all its weights, for use alone: without dropout and gradients.

    Args:
        loader: its class, or one of transformers' Auto classes.
        model: a folder or hub id.
        place: which setting names it, for messages.
        optional: how the names of weights begin that may be missing.
        buffers: whether buffers must be there as well; some detectors keep none in their files.
        settings: of ``from_pretrained``.

    Raises:
        UserError: it cannot be loaded, or misses weights.
    """
    try:
        network, report = loader.from_pretrained(model, output_loading_info=True, **settings)
    except Exception as error:  # transformers and the hub raise many kinds for a bad checkpoint
        raise UserError(f"{place}: {join_lines(error)}") from error
    missing = {name for name in report["missing_keys"] if not name.startswith(optional)}
    if not buffers:
        missing &= {name for name, _ in network.named_parameters()}
    if missing:
        raise UserError(f"{place}: no weights for {min(missing)}")
    return network.eval().requires_grad_(False)


def load_part(loader: Loader, source: str, place: str, **settings: Any) -> Part:
    """What goes with a network: its tokenizer, transform of pictures, processor or config.

    Args:
        loader, source, place, settings: as for `load_network`.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        return loader.from_pretrained(source, **settings)
    except Exception as error:  # as above
        raise UserError(f"{place}: {join_lines(error)}") from error
