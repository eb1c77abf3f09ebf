"""Who is on the curve now: the weight of each subject at each latent pixel.

What a mask says of itself is read where runs are planned and found: so torch is imported by the
functions that compute, not here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from PIL import Image

from asyndm.choices import to_snake_case
from asyndm.errors import UserError, is_number

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"
"""A file name, a PIL image, or an array or tensor (H, W) in [0, 1] or of uint8."""


@dataclass(frozen=True)
class Scene:
    """The subjects of a batch of images.

    Args:
        concavity: (B, S) float64, each subject's ω; -1 where an image has fewer subjects than S.
        size: (H, W) of the network's token grid: latent pixels for a UNet.
    """

    concavity: Tensor
    size: tuple[int, int]

    @property
    def present(self) -> Tensor:
        """(B, S) bool: which subjects are real."""
        return self.concavity >= 0

    def weights(self, fill: float) -> Tensor:
        """(B, S, H, W) float64 weights: ``fill`` everywhere for the subject of largest ω, 0 for the
        others."""
        first = self.concavity.new_zeros(self.concavity.shape)
        first.scatter_(1, self.concavity.argmax(1, keepdim=True), fill)
        return first[:, :, None, None].repeat(1, 1, *self.size)

    def remove_overlap(self, weights: Tensor) -> Tensor:
        """Weights without overlap: each pixel to the subject of largest ω that covers it, ties to
        the first."""
        owner = self._omega(weights, -1.0).argmax(1, keepdim=True)
        return weights.new_zeros(weights.shape).scatter(1, owner, weights.gather(1, owner))

    def combine(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Each pixel's weight and ω, both (B, H, W), without overlap."""
        weights = self.remove_overlap(weights)
        return weights.sum(1), self._omega(weights, 0.0).sum(1)

    def _omega(self, weights: Tensor, otherwise: float) -> Tensor:
        """(B, S, H, W), the subject's ω where it has weight."""
        return self.concavity[:, :, None, None].where(weights > 0, otherwise)


class Mask(ABC):
    """Says which pixels of the token grid belong to which subject: weights (B, S, H, W) in [0, 1].

    A pixel of weight w moves to w·(curve) + (1-w)·(straight line).

    Attributes:
        name: what it is called where it is chosen, ``mask=dynamic``; unless the class says another,
            its own name in words: ``SteadyMask`` is "steady".
        label: what its method is called in tables, ``AsynDM``; unless the class says another, the
            name.
        bends: whether it puts a pixel on the curve at all.
        uniform: whether all pixels are always at the same noise level.
        needs_subjects: refuses prompts without subjects.
        follows_attention: is told the subjects' attention at every step.
        rehearses: first needs a whole synchronous run.

    The last three are inherited as usual; the others are a class's own, since a mask made from
    another one by inheritance is another method.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    bends: ClassVar[bool] = True
    uniform: ClassVar[bool] = False
    needs_subjects: ClassVar[bool] = False
    follows_attention: ClassVar[bool] = False
    rehearses: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = vars(cls)
        cls.name = own.get("name", to_snake_case(cls.__name__.removesuffix("Mask") or cls.__name__))
        cls.label = own.get("label", cls.name)
        cls.bends = own.get("bends", Mask.bends)
        cls.uniform = own.get("uniform", Mask.uniform)

    @property
    def reads_attention(self) -> bool:
        """Whether it is made of attention, of every step or of a rehearsal."""
        return self.follows_attention or self.rehearses

    def select(self, images: range, count: int) -> Mask:
        """The mask of some of ``count`` images, with all that it is made of at hand."""
        return self

    @abstractmethod
    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        """The weights before the first evaluation.

        Args:
            scene: the subjects.
            rehearse: runs the plain synchronous method from the same noise and returns the mean of
                all its attention maps (B, S, h, w).
        """

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        """The weights after an evaluation, from its attention maps (B, S, h, w); None unless asked
        for."""
        return weights


@dataclass(frozen=True)
class NoMask(Mask):
    """No pixel on the curve: the synchronous method, DM."""

    name = "none"
    label = "DM"
    bends = False
    uniform = True

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return scene.weights(0.0)


@dataclass(frozen=True)
class GlobalMask(Mask):
    """All pixels on the curve, at the largest ω among the subjects: DM_concave."""

    label = "DM_concave"
    uniform = True

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return scene.weights(1.0)


@dataclass(frozen=True)
class DynamicMask(Mask):
    """AsynDM: a subject's pixels are where its attention is at least ``threshold`` times its mean,
    at every step.

    The mask found at evaluation i steers the update of evaluation i+1. Before the first map exists,
    every pixel belongs to the subject with the largest ω.
    """

    threshold: float = 1.0

    label = "AsynDM"
    needs_subjects = True
    follows_attention = True

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return scene.weights(1.0)

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        return weights if maps is None else binarise(maps, self.threshold, scene)


@dataclass(frozen=True)
class StaticMask(Mask):
    """As dynamic, but from the mean of all maps of a complete DM run with the same seed, found
    once."""

    threshold: float = 1.0

    label = "AsynDM_static"
    needs_subjects = True
    rehearses = True

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return binarise(rehearse(), self.threshold, scene)


@dataclass(frozen=True, eq=False)
class ExternalMask(Mask):
    """The user's own mask: white pixels on the curve, black ones on the line, grey in between.

    Args:
        image: one mask for all images of the batch, or a list with one for each; any size, resized
            to the token grid by area. The curve is that of the subject with the largest ω.
    """

    image: ImageSource | Sequence[ImageSource] = field(repr=False)

    label = "AsynDM_external"

    def select(self, images: range, count: int) -> ExternalMask:
        """Their masks, read.

        Raises:
            UserError: another number of masks than of images, or one that cannot be read.
        """
        image: Any = self.image
        if not isinstance(image, (list, tuple)):
            return ExternalMask(read_grey(image))
        if len(image) != count:
            raise UserError(f"mask: {len(image)} mask images were given for {count} images")
        return ExternalMask([read_grey(image[i]) for i in images])

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        import torch
        import torch.nn.functional as F

        count = len(scene.concavity)
        read = self.select(range(count), count).image
        sources: Any = read if isinstance(read, list) else [read] * count
        grey = torch.stack([F.adaptive_avg_pool2d(each[None], scene.size)[0] for each in sources])
        return scene.weights(1.0) * grey[:, None].to(scene.concavity.device)


def binarise(maps: Tensor, threshold: float, scene: Scene) -> Tensor:
    """Weights 0 or 1 (B, S, H, W): map >= threshold · its mean over the image, repeated to the
    token grid."""
    maps = maps.double()
    is_high = maps >= threshold * maps.mean((-2, -1), keepdim=True)
    chosen = is_high & scene.present[:, :, None, None]
    height, width = scene.size
    scale = -(-height // maps.shape[-2])
    chosen = chosen.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    return chosen[..., :height, :width].double()


def read_grey(source: ImageSource) -> Tensor:
    """A mask image as float64 (H, W) in [0, 1], from a file name, a PIL image, an array or a
    tensor.

    Raises:
        UserError: no such file, no picture, or values that are no mask's.
    """
    import torch

    if isinstance(source, (str, Path)):
        source = _open_image(source)
    if isinstance(source, Image.Image):
        source = _convert_to_grey(source)
    try:
        if isinstance(source, torch.Tensor):
            array = source.detach().cpu()
        else:
            array = torch.from_numpy(np.array(source))
    except TypeError:
        raise UserError(f"mask: {source!r} is neither a picture nor an array of numbers") from None
    scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(array.dtype, 1.0)
    array = array if array.is_complex() else array.double() / scale
    is_plane = array.ndim == 2 and bool(array.numel()) and not array.is_complex()
    if not is_plane or not bool(((array >= 0) & (array <= 1)).all()):
        raise UserError(
            "mask: an array must be (height, width) with values in [0, 1], or uint8 or uint16, "
            f"got {tuple(array.shape)} of {str(array.dtype).removeprefix('torch.')}"
        )
    return array


def _open_image(path: str | Path) -> Image.Image:
    try:
        with Image.open(Path(path).expanduser()) as opened:
            opened.load()
            return opened.copy()
    except FileNotFoundError:
        raise UserError(f"mask: there is no file {str(path)!r}") from None
    except Exception as error:  # Pillow has some six for a broken file, TypeError among them
        reason = str(error).partition("\n")[0]
        raise UserError(f"mask: {str(path)!r} is not a readable image ({reason})") from None


def _convert_to_grey(image: Image.Image) -> np.ndarray[Any, Any]:
    """A picture's grey: 16 bits and floats as they are, all else as 8 bits; what is transparent is
    black."""
    if image.mode.startswith("I"):
        return np.asarray(image) / 65535
    if image.mode == "F":
        return np.asarray(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return np.asarray(image.convert("L"))


def _check_threshold(threshold: float) -> None:
    if not is_number(threshold) or not 0 <= threshold < float("inf"):
        raise UserError(f"mask threshold must be a number of at least 0, got {threshold!r}")
