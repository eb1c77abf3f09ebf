"""Who is on the curve now: the weight of each subject at each latent pixel.

What a mask says of itself is read where runs are planned and found: so torch is imported by the
functions that compute, not here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from asyndm.choices import to_snake_case
from asyndm.errors import UserError, check_flag, is_number, is_whole
from asyndm.layouts import Layout, check_layout, find_places, list_boxes, list_entries
from asyndm.mask_images import ImageSource, read_grey
from asyndm.scene import Scene
from asyndm.subjects import Subject

if TYPE_CHECKING:
    from torch import Tensor


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
        rehearses: first needs a synchronous run.

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

    def prepare(self, prompts: Sequence[str], seeds: Sequence[int]) -> Mask:
        """The mask of images of these prompts and seeds, for one that is made of either.

        Raises:
            UserError: a prompt that it cannot be made for.
        """
        return self

    def select(self, images: range, count: int) -> Mask:
        """The mask of some of ``count`` images, with all that it is made of at hand."""
        return self

    def check(self, subjects: Sequence[Sequence[Subject]]) -> None:
        """Refuse subjects, of each image, that the mask does not fit.

        Raises:
            UserError: it names one that is not among them.
        """
        return

    def count_rehearsed(self, steps: int) -> int:
        """Of N steps, how many its rehearsal takes, from the first on."""
        return steps if self.rehearses else 0

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
    at every step, and within ``grow`` cells of the map of these places.

    The mask found at evaluation i steers the update of evaluation i+1. Before the first map exists,
    every pixel belongs to the subject with the largest ω.
    """

    threshold: float = 1.0
    grow: int = 0

    label = "AsynDM"
    needs_subjects = True
    follows_attention = True

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)
        _check_grow(self.grow)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return scene.weights(1.0)

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        from asyndm.regions import binarise

        return weights if maps is None else binarise(maps, self.threshold, scene, self.grow)


@dataclass(frozen=True)
class StaticMask(Mask):
    """As dynamic, but from the mean of all maps of a complete DM run with the same seed, found
    once."""

    threshold: float = 1.0
    grow: int = 0

    label = "AsynDM_static"
    needs_subjects = True
    rehearses = True

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)
        _check_grow(self.grow)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        from asyndm.regions import binarise

        return binarise(rehearse(), self.threshold, scene, self.grow)


@dataclass(frozen=True)
class ThingsMask(StaticMask):
    """As static, but of each subject only as many connected regions as there are to be of it: those
    with most attention, grown by ``grow`` cells of the map.

    A cell belongs to the subject whose attention, over its own mean, is largest there.

    Args:
        rehearsal_steps: how many of the N steps the rehearsal takes; None: all of them.
        next_best: where two subjects would share a region, the one that is weaker there takes its
            next best (`asyndm.regions.choose_things`).
    """

    threshold: float = 2.0
    grow: int = 1
    rehearsal_steps: int | None = None
    next_best: bool = True

    label = "AsynDM_things"

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.rehearsal_steps
        if steps is not None and (not is_whole(steps) or steps < 1):
            raise UserError(
                f"mask rehearsal_steps must be a whole number of at least 1, or none, got {steps!r}"
            )
        check_flag(self.next_best, "mask next_best")

    def count_rehearsed(self, steps: int) -> int:
        return steps if self.rehearsal_steps is None else min(self.rehearsal_steps, steps)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        from asyndm import regions

        kept = regions.choose_things(rehearse(), scene, self.threshold, self.grow, self.next_best)
        return regions.repeat(regions.grow(kept.double(), self.grow), scene.size)


@dataclass(frozen=True, eq=False)
class ExternalMask(Mask):
    """The user's own mask: white pixels on the curve, black ones on the line, grey in between.

    Args:
        image: one mask for all images of the batch, or a list with one for each; any size, resized
            to the token grid by area. The curve is that of the subject with the largest ω. Or a
            mask for each of some subjects, by name, which has the subject's curve:
            ``{"rabbit": "rabbit.png"}``.
        grow: by how many cells of the token grid what is white is grown.
    """

    image: ImageSource | Mapping[str, ImageSource] | Sequence[Any] = field(repr=False)
    grow: int = 0

    label = "AsynDM_external"

    def __post_init__(self) -> None:
        _check_grow(self.grow)

    def select(self, images: range, count: int) -> ExternalMask:
        """Their masks, read.

        Raises:
            UserError: another number of masks than of images, or one that cannot be read.
        """
        if not isinstance(self.image, (list, tuple)):
            return replace(self, image=_read(self.image))
        entries = list_entries(self.image, count, "mask images")
        return replace(self, image=[_read(entries[i]) for i in images])

    def check(self, subjects: Sequence[Sequence[Subject]]) -> None:
        entries = list_entries(self.image, len(subjects), "mask images")
        for entry, named in zip(entries, subjects, strict=True):
            find_places(entry if isinstance(entry, Mapping) else {}, named)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        from torch.nn.functional import adaptive_avg_pool2d

        from asyndm.regions import grow, lay

        count = len(scene.concavity)
        entries = list_entries(self.select(range(count), count).image, count, "mask images")

        def fit(grey: Tensor) -> Tensor:
            return adaptive_avg_pool2d(grey[None], scene.size)[0]

        weights = scene.weights(1.0)
        for image, entry in enumerate(entries):
            if isinstance(entry, Mapping):
                planes = {name: fit(grey) for name, grey in entry.items()}
                weights[image] = lay(planes, scene, image)
            else:
                weights[image] *= fit(entry).to(weights.device)
        return grow(weights, self.grow)


@dataclass(frozen=True, eq=False)
class LayoutMask(Mask):
    """Boxes in which subjects are on the curve; all else, and subjects without a box, are on the
    line.

    Args:
        boxes: by the subjects' names, (x0, y0, x1, y1) from the left and the top, as parts of the
            width and the height; or several for one subject: ``{"rabbit": [0.1, 0.2, 0.5, 0.9]}``.
            One such layout for all images, or a list with one for each. A cell of the token grid
            is on the curve as far as it is covered.
        grow: by how many cells of the token grid boxes are grown.
    """

    boxes: Layout | Sequence[Layout]
    grow: int = 0

    label = "AsynDM_layout"

    def __post_init__(self) -> None:
        _check_grow(self.grow)
        for layout in self.boxes if isinstance(self.boxes, (list, tuple)) else [self.boxes]:
            check_layout(layout)

    def select(self, images: range, count: int) -> LayoutMask:
        if not isinstance(self.boxes, (list, tuple)):
            return self
        entries = list_entries(self.boxes, count, "layouts")
        return replace(self, boxes=[entries[i] for i in images])

    def check(self, subjects: Sequence[Sequence[Subject]]) -> None:
        layouts = list_entries(self.boxes, len(subjects), "layouts")
        for layout, named in zip(layouts, subjects, strict=True):
            find_places(layout, named)

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        from asyndm.regions import cover, grow, lay

        weights = scene.weights(0.0)
        for image, layout in enumerate(list_entries(self.boxes, len(weights), "layouts")):
            planes = {n: cover(list_boxes(boxes), scene.size) for n, boxes in layout.items()}
            weights[image] = lay(planes, scene, image)
        return grow(weights, self.grow)


def _read(entry: Any) -> Tensor | dict[str, Tensor]:
    if isinstance(entry, Mapping):
        return {name: read_grey(source) for name, source in entry.items()}
    return read_grey(entry)


def _check_threshold(threshold: float) -> None:
    if not is_number(threshold) or not 0 <= threshold < float("inf"):
        raise UserError(f"mask threshold must be a number of at least 0, got {threshold!r}")


def _check_grow(cells: int) -> None:
    if not is_whole(cells) or cells < 0:
        raise UserError(f"mask grow must be a whole number of at least 0, got {cells!r}")
