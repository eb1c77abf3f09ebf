"""Pictures to vectors by a network, and the distances between two sets of such vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from asyndm.errors import UserError, read_first_line
from evaluation.networks.open_clip import check_open_clip, load_open_clip, name_architecture
from evaluation.networks.weights import EMBEDDED, hash_files, identify

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INCEPTION = "inception"
SUBSETS = 100
"""How many subsets KID draws."""


class Features:
    """The features of one network, always in float32; loaded when the first picture is seen.

    Args:
        choice: "inception", torchmetrics' Inception v3 (the 2048 numbers of its last pooling, as
            FID and KID are defined); "shapes", the image features of the shapes world's CLIP; else
            those of another CLIP of open_clip, before they are scaled to length 1: a folder,
            "hf-hub:ORG/REPO", or "NAME:TAG" ("ViT-B-32:openai").

    Attributes:
        name: what results call it, with a hash of weights that lie on this disk.

    Raises:
        UserError: torch-fidelity, which inception needs, is not installed; no such model; weights
            that are not here and cannot be fetched.
    """

    def __init__(self, choice: str) -> None:
        self.choice = choice
        if choice == INCEPTION:
            self.name = INCEPTION
            if find_spec("torch_fidelity") is None:
                raise UserError(
                    "--features inception: needs torch-fidelity (pip install --group inception, "
                    "in the checkout), or choose --features shapes or a CLIP of open_clip"
                )
            return
        self.model, self.tag = _split_choice(choice)
        try:
            check_open_clip(self.model, self.tag)
        except UserError as error:
            raise UserError(f"--features {choice}: {error}") from error
        if (folder := Path(self.model).expanduser()).is_dir():
            self.name = (
                f"{choice if choice == 'shapes' else folder.resolve().name}@{hash_files(folder)}"
            )
        else:
            named = name_architecture(self.model, self.tag)
            self.name = named if self.tag is None else f"{named}:{identify(self.tag)}"

    def of(self, images: Sequence[Image]) -> Tensor:
        """The features (N, d) of N pictures, in float64 and on the CPU, for the sums to come.

        Raises:
            UserError: the network cannot be loaded, or gives no numbers.
        """
        import torch

        prepare, network = self.loaded
        pixels = [prepare(image.convert("RGB")) for image in images]
        with torch.no_grad():
            found = (
                torch.cat([network(torch.stack(alike)) for alike in _group_by_size(pixels)])
                .double()
                .cpu()
            )
        if not found.isfinite().all():
            raise UserError(
                f"--features {self.choice}: the network gives no numbers for some pictures"
            )
        return found

    @cached_property
    def loaded(self) -> tuple[Callable[[Image], Tensor], Callable[[Tensor], Tensor]]:
        """A picture's transform and the network, once."""
        import torch

        from asyndm.models import choose_device

        where = choose_device("auto")
        if self.choice == INCEPTION:
            inception = _load_inception().to(where)
            return _to_tensor, lambda batch: inception(batch.to(where))
        clip, prepare, _ = load_open_clip(self.model, self.tag, where, torch.float32)
        return prepare, lambda batch: clip.encode_image(batch.to(where), normalize=False)


def fid(known: Tensor, seen: Tensor) -> float:
    """torchmetrics' Fréchet distance between features (N, d) and (M, d)."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    # torchmetrics asks a network of one's own how many features it gives; this one gives its input
    given = torch.nn.Identity()
    given.register_buffer("num_features", torch.tensor(seen.shape[1]))
    metric = FrechetInceptionDistance(feature=given)
    metric.update(known, real=True)
    metric.update(seen, real=False)
    return float(metric.compute())


def kid(known: Tensor, seen: Tensor, subset_size: int, seed: int) -> tuple[float, float]:
    """torchmetrics' kernel distance between features (N, d) and (M, d): mean and deviation over
    subsets."""
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    # the subsets come from torch's global generator: seeded here, and left to others as it was
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            torch.nn.Identity(), subsets=SUBSETS, subset_size=subset_size
        )
        metric.update(known, real=True)
        metric.update(seen, real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def _split_choice(choice: str) -> tuple[str, str | None]:
    """What open_clip calls a model: a folder or name, and for a name the tag of its weights."""
    if choice == "shapes":
        return str(EMBEDDED / "clip"), None
    if choice.startswith("hf-hub:") or Path(choice).expanduser().is_dir():
        return choice, None
    model, _, tag = choice.partition(":")
    if not tag and "/" not in model and not model.startswith("~"):
        raise UserError(
            f"--features {choice}: no such folder; "
            "name a CLIP of open_clip as NAME:TAG (ViT-B-32:openai)"
        )
    return model, tag or None


def _load_inception() -> torch.nn.Module:
    """torchmetrics' Inception v3, which takes pictures of 8 bits in any size.

    Raises:
        UserError: its weights are not here and cannot be fetched.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"])
    except Exception as error:  # whatever the network, the disk or torch raises
        raise UserError(
            "--features inception: the weights are not in torch's cache and cannot be fetched "
            f"({read_first_line(error)}); "
            "put weights-inception-2015-12-05-6726825d.pth into TORCH_HOME/hub/checkpoints"
        ) from error


def _to_tensor(image: Image) -> Tensor:
    """A picture (3, H, W) in 8 bits."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _group_by_size(pixels: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one size, which can be stacked."""
    return (list(group) for _, group in groupby(pixels, key=lambda picture: picture.shape))
