"""A timestep for every token of a stock network: the distinct ones ride through it as a batch of
rows.

What a network computes from time alone (sinusoid, MLP, modulation) it computes for each row of its
``timestep`` argument. Given the R distinct (sample, timestep) pairs for B samples it computes R
rows instead of B; only where a row meets tokens or pixels does each of those take its own. No
module of the network is hooked or copied for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asyndm.errors import UserError
from asyndm.protocols import Arguments

Grid = tuple[int, ...]
_ARITHMETIC = {
    getattr(Tensor, f"__{side}{name}__")
    for name in ("add", "sub", "mul", "truediv")
    for side in ("", "r")
} | {getattr(home, name) for name in ("add", "sub", "mul", "div") for home in (torch, Tensor)}
_RESIZING = {Tensor.reshape, Tensor.view, torch.reshape, Tensor.expand}


@dataclass(frozen=True)
class TokenRows:
    """Which row each token takes.

    Args:
        network: its name, for messages.
        batch: B, the network's batch.
        sample: (R,) the sample each row belongs to.
        rows: token grid -> (B, *grid), the row of each token. Sequences of tokens are known by
            their length, pictures by height and width.
    """

    network: str
    batch: int
    sample: Tensor
    rows: dict[Grid, Tensor]

    @property
    def picture(self) -> bool:
        """Whether tokens lie as a picture."""
        return any(rows.ndim == 3 for rows in self.rows.values())

    def to(self, device: torch.device) -> TokenRows:
        """The same, on that device."""
        if self.sample.device == device:
            return self
        return TokenRows(
            self.network,
            self.batch,
            self.sample.to(device),
            {grid: rows.to(device) for grid, rows in self.rows.items()},
        )

    def find(self, grid: Grid) -> Tensor:
        """The rows of a grid. One coarser than the latents (in a UNet) takes the top left pixel of
        each cell.

        Raises:
            UserError: nothing is known of such a grid.
        """
        if grid not in self.rows and len(grid) == 2:
            cells = max((rows for rows in self.rows.values() if rows.ndim == 3), key=Tensor.numel)
            while cells.shape[-2] > grid[0] or cells.shape[-1] > grid[1]:
                cells = cells[:, ::2, ::2]
            if tuple(cells.shape[1:]) == grid:
                self.rows[grid] = cells.contiguous()
        if grid not in self.rows:
            known = ", ".join("x".join(map(str, grid)) for grid in self.rows)
            raise UserError(
                f"{self.network}: timesteps are known for tokens {known}, but the network has "
                f"{'x'.join(map(str, grid))}"
            )
        return self.rows[grid]


Wrap = Callable[[Tensor, TokenRows], Tensor]


class TimeRows(Tensor):
    """(R, ...): what a network has computed from time alone, once for each distinct (sample,
    timestep).

    Everything acts on it as on a batch of R. Two meetings are special: with one value a sample, (B,
    D), each row takes its sample's; with tokens (B, N, D) or pixels (B, C, h, w) each of them takes
    its row, and a plain tensor comes out. Tokens are met by rows of three and more dimensions only:
    (R, 1) times (1, frequencies) is no meeting.
    """

    token_rows: TokenRows

    @classmethod
    def of(cls, rows: Tensor, token_rows: TokenRows) -> TimeRows:
        """These rows, for those tokens."""
        made = rows.as_subclass(cls)
        made.token_rows = token_rows.to(rows.device)
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        if torch.compiler.is_compiling():  # dynamo loses the rows and goes on with a wrong picture
            raise UserError(
                "the network is compiled by torch.compile, "
                "which a timestep per pixel does not survive"
            )
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func.__name__ == "__get__":  # shape, dtype, device and the like
                return func(*args)
            table = next(
                a.token_rows for a in _flatten((*args, *kwargs.values())) if isinstance(a, TimeRows)
            )
            return compute(func, args, kwargs, table, TimeRows.of)


def compute(func: Any, args: Any, kwargs: Arguments, table: TokenRows, wrap: Wrap) -> Any:
    """A function of rows, or of rows and tokens; torch's own, not that of a subclass.

    Args:
        wrap: makes rows of a plain tensor.
    """
    if func in _ARITHMETIC and sum(isinstance(a, Tensor) and a.ndim > 0 for a in args) == 2:
        args, met = _meet(table, *args)
        if met:
            return func(*args, **kwargs)
    elif func in _RESIZING:
        args = (args[0], *_resize(args[1:], table))
    return _wrap(func(*args, **kwargs), table, func, wrap)


def make_time_rows(
    timesteps: Tensor,
    convert: Callable[[Tensor], Tensor],
    *,
    network: str,
    copies: int = 1,
    picture: bool = False,
    text: Tensor | None = None,
    text_length: int | Sequence[int] = 0,
    text_first: bool = True,
    padding: int = 0,
    wrap: Wrap | None = None,
) -> Tensor:
    """The ``timestep`` argument of a network call in which every token has its own.

    Args:
        timesteps: (b, h, w) float64, one for each token, or latent pixel of a UNet.
        convert: from the scheduler's timesteps (R,) to what the network takes.
        network: its name, for messages.
        copies: the network's batch is ``copies`` times b (guidance).
        picture: tokens are (B, C, h, w); else a sequence (B, N, D).
        text: (b,) float64, of the text tokens of a joint sequence; None: the network's text has no
            timestep.
        text_length: how many of them there are; or of each sample of the batch, where each sequence
            has its own text and what it lacks in length is filled up at its end.
        text_first: joint sequences are [text; image]; else [image; text].
        padding: how many tokens stand behind the image's that are none of its places: they go with
            the text.
        wrap: makes rows of the timesteps of a plain tensor, whatever they are; None: `TimeRows`.

    Returns:
        (B,) as a stock pipeline hands over, where each sample has one timestep and ``wrap`` is
        None; else `TimeRows` (R,).

    Raises:
        UserError: as many text as image tokens: which is which could not be told apart.
    """
    b, grid = len(timesteps), tuple(timesteps.shape[1:])
    table = timesteps.reshape(b, -1)
    n = table.shape[1]
    lengths = [text_length] if isinstance(text_length, int) else list(text_length)
    if text is not None:
        if max(lengths) in (n, n + padding):
            raise UserError(
                f"{network}: {max(lengths)} text tokens and as many image tokens cannot be told "
                "apart; choose another max_sequence_length or size"
            )
        table = torch.cat([table, text[:, None]], 1)
    table = table.repeat(copies, 1)
    values, sample, index = _find_distinct(table)
    if wrap is None and len(values) == copies * b:
        return convert(values)
    image = index[:, :n]
    rows: dict[Grid, Tensor] = {grid: image.reshape(-1, *grid)} if picture else {(n,): image}
    if text is not None:
        rows |= _make_joint_rows(
            image, index[:, n:], lengths if text_first else [0], max(lengths), padding
        )
    return (wrap or TimeRows.of)(convert(values), TokenRows(network, copies * b, sample, rows))


def _find_distinct(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct (sample, timestep) pairs of a table (B, n) of timesteps: the timesteps (R,),
    the samples (R,), and which of the pairs is where, (B, n)."""
    sample = torch.arange(len(table), device=table.device)[:, None].expand_as(table)
    # One number for each pair, since no timestep is as large as 4096; a pair of columns would be
    # sorted row by row. The step's only wait for the device.
    distinct, index = torch.unique(table + 4096.0 * sample, return_inverse=True)
    # Read off the table: in the sum the last bits of a timestep are rounded away.
    timesteps, samples = (
        each.new_empty(len(distinct)).scatter_(0, index.flatten(), each.flatten())
        for each in (table, sample)
    )
    return timesteps, samples, index


def _make_joint_rows(
    image: Tensor, words: Tensor, starts: list[int], length: int, padding: int
) -> dict[Grid, Tensor]:
    """The rows of text alone, of image tokens with their padding, and of both in one sequence.

    Args:
        image: (B, n) rows of the image tokens.
        words: (B, 1) row of the text.
        starts: where the image begins in the joint sequence, of all samples or of each.
        length: of the longest text.
    """
    n = image.shape[1]
    rows: dict[Grid, Tensor] = {(length,): words.expand(-1, length).contiguous()}
    start = put_numbers(starts, image.device)[:, None]
    for total, first in ((n + padding, 0), (length + n + padding, start)):
        place = torch.arange(total, device=image.device)[None] - first
        inside = ((place >= 0) & (place < n)).expand(len(image), -1)
        own = image.gather(1, place.clamp(0, n - 1).expand(len(image), -1))
        rows[(total,)] = torch.where(inside, own, words)
    return rows


def put_numbers(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Some whole numbers on a device, each filled in there: a list that is copied to a GPU waits
    for it."""
    return torch.cat([torch.full((1,), number, device=device) for number in numbers])


def make_pixel_timesteps(timesteps: Tensor) -> Tensor:
    """The ``timestep`` argument of a stock ``UNet2DConditionModel`` for a timestep per latent pixel
    (B, h, w).

    Example::

        noise = unet(x, make_pixel_timesteps(timesteps), encoder_hidden_states=text).sample
    """
    network = "UNet2DConditionModel"
    return make_time_rows(timesteps.double(), Tensor.float, network=network, picture=True)


def _meet(table: TokenRows, a: Any, b: Any) -> tuple[tuple[Any, Any], bool]:
    """Both operands made to fit, and whether the result is a plain tensor of tokens."""
    if isinstance(a, TimeRows) and isinstance(b, TimeRows):
        return (a, b), False
    rows, other = (a, b) if isinstance(a, TimeRows) else (b, a)
    if other.ndim < rows.ndim:
        return (a, b), False
    met = False
    if other.ndim > rows.ndim or other.shape[0] not in (1, table.batch):
        raise UserError(
            f"{table.network}: timesteps {tuple(rows.shape)} meet {tuple(other.shape)} in a way "
            "not known"
        )
    alone = (1,) in table.rows and rows.ndim == 3 == other.ndim  # a text of a single token
    axes = [
        i
        for i in range(1, rows.ndim)
        if rows.shape[i] == 1 and (other.shape[i] > 1 or (alone and i == 1))
    ]
    if table.picture and rows.shape[2:] == (1, 1):
        axes = [2, 3]  # also where the picture is one pixel high or wide
    known = tuple(other.shape[i] for i in axes) in table.rows or table.picture
    # With a batch of one a table of the network's own, (1, 2, D), looks like tokens; its length
    # tells them apart.
    if axes and rows.ndim >= 3 and other.shape[0] == table.batch and (known or table.batch > 1):
        rows, met = _gather_rows(rows, axes, table.find(tuple(other.shape[i] for i in axes))), True
    elif other.shape[0] == table.batch:
        other = other[table.sample]
    return ((rows, other) if isinstance(a, TimeRows) else (other, rows)), met


def _gather_rows(rows: Tensor, axes: list[int], index: Tensor) -> Tensor:
    """(R, ..1..) -> (B, ..grid..)."""
    rest = rows.squeeze(tuple(axes))
    spread = F.embedding(index, rest) if rest.ndim == 2 else rest[index]
    first = tuple(range(1, 1 + len(axes)))
    return spread if first == tuple(axes) else spread.movedim(first, tuple(axes))


def _resize(sizes: Any, table: TokenRows) -> Any:
    """Sizes in which a first one of B, as the network knows its batch, is R."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        return (_resize(tuple(sizes[0]), table),)
    return (len(table.sample), *sizes[1:]) if sizes and sizes[0] == table.batch else sizes


def _wrap(out: Any, table: TokenRows, func: object, wrap: Wrap) -> Any:
    if isinstance(out, (tuple, list)) and not isinstance(out, torch.Size):
        return type(out)([_wrap(each, table, func, wrap) for each in out])
    if not isinstance(out, Tensor):
        return out
    if out.ndim == 0 or out.shape[0] != len(table.sample):
        name = getattr(func, "__name__", func)
        raise UserError(
            f"{table.network}: {name} mixes rows of different timesteps into {tuple(out.shape)}"
        )
    return wrap(out, table)


def _flatten(args: Any) -> Iterator[Any]:
    for each in args:
        if isinstance(each, (tuple, list)):
            yield from _flatten(each)
        else:
            yield each
