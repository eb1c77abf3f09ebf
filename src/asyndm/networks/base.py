"""What a family of networks has to say so that its tokens can have timesteps of their own."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asyndm.attention import AttentionMaps, FusedMaps, Reading, Tokens
from asyndm.errors import UserError
from asyndm.protocols import Arguments, Network, Pipeline, Tokenizer
from asyndm.subjects import Subject, keep_reachable

MARK = "prompt-stands-here"
NO_BATCH = ("img_ids", "txt_ids", "image_rotary_emb", "ip_adapter_masks")
"""Arguments of networks whose first axis is not the batch, whatever its length."""
Positions = list[list[int]]


class Family(ABC):
    """A family of stock networks: its token grid, its time argument, its text, its attention.

    Attributes:
        networks: class names of the denoising network.
        helpers: class names of networks beside it that are told the same timesteps (ControlNets).
        pipelines: class names of the pipelines it is served in.
        states: the argument of the network that is the latents.
        timestep: the argument of the network that is the timestep.
        picture: whether tokens lie in the network as a picture (B, C, h, w), not as a sequence.
        text_first: of a joint sequence, whether text comes before image; None: text has no timestep
            of its own.
        compiles: whether a test has found the network compiled by torch.compile to be the same as
            uncompiled.
        blind_blocks: whether none of those that ``compile_repeated_blocks`` compiles sees time, so
            that any torch compiles them.
        negates: whether pipelines hand their scheduler the network's output with the other sign.
        rescales: whether they bring what they combine of both prompts to the norm of what is said
            with the prompt.
        layered: arguments of the network whose batch is their second axis.
    """

    networks: ClassVar[tuple[str, ...]]
    helpers: ClassVar[tuple[str, ...]] = ()
    pipelines: ClassVar[tuple[str, ...]]
    states: ClassVar[str] = "hidden_states"
    timestep: ClassVar[str] = "timestep"
    picture: ClassVar[bool] = False
    text_first: ClassVar[bool | None] = None
    compiles: ClassVar[bool] = False
    blind_blocks: ClassVar[bool] = False
    negates: ClassVar[bool] = False
    rescales: ClassVar[bool] = False
    layered: ClassVar[tuple[str, ...]] = ()

    def convert(self, network: Network, timesteps: Tensor, given: Tensor) -> Tensor:
        """From the scheduler's timesteps (R,) float64 to what the pipeline would hand over where it
        hands ``given``."""
        return timesteps.to(given.dtype if given.is_floating_point() else torch.float32)

    def batch(self, arguments: Arguments) -> int:
        """The network's batch in this call."""
        return len(arguments[self.states])

    def grid(self, network: Network, arguments: Arguments) -> tuple[int, int]:
        """(h, w) of the image tokens in this call: squares of latent pixels, unless a family says
        otherwise."""
        height, width = arguments[self.states].shape[-2:]
        size = network.config.patch_size
        return height // size, width // size

    def text_length(self, arguments: Arguments) -> int | list[int]:
        """How many text tokens a joint sequence has in this call; or of each of the batch, where
        they differ."""
        text = arguments.get("encoder_hidden_states")  # some ControlNets are shown none
        return 0 if text is None else int(text.shape[1])

    def padding(self, network: Network, arguments: Arguments) -> int:
        """How many tokens that are no places of the picture stand behind those that are."""
        return 0

    def read_states(self, network: Network, arguments: Arguments) -> Tensor:
        """x of every row of the batch, as the scheduler has it."""
        states: Tensor = arguments[self.states]
        return states

    def write_states(self, arguments: Arguments, x: Tensor) -> dict[str, Any]:
        """The arguments at another x of every row; what more channels there are stays."""
        states: Tensor = arguments[self.states]
        axis = 1 if states.ndim == 4 else 2
        beside = states.narrow(axis, x.shape[axis], states.shape[axis] - x.shape[axis])
        moved = torch.cat([x.to(states.dtype), beside], axis) if beside.numel() else x
        return {**arguments, self.states: moved.to(states.dtype)}

    def read_output(self, output: Any, x: Tensor) -> Tensor:
        """What the scheduler is handed of the network's output, for every row: of x's shape, that
        is without a learnt variance, and with the scheduler's sign."""
        made: Tensor = output[:, : x.shape[1]]
        return -made if self.negates else made

    def select_rows(self, arguments: Arguments, index: Sequence[int]) -> dict[str, Any]:
        """The arguments with these rows of the batch, in all that has one."""
        batch, listed = self.batch(arguments), isinstance(arguments[self.states], list)
        return {
            name: _select(name, value, index, batch, listed, int(name in self.layered))
            for name, value in arguments.items()
        }

    def read_guidance_scale(self, stated: float) -> float:
        """g of e_u + g (e_c - e_u), from what the pipeline calls its scale."""
        return stated

    def conditional(self, copies: int, pipe: Pipeline) -> int:
        """Which of the copies of an image in the network's batch is the one with the prompt."""
        perturbed = bool(getattr(pipe, "do_perturbed_attention_guidance", False))
        return 1 if copies - perturbed > 1 else 0

    @abstractmethod
    def positions(
        self,
        parts: Pipeline,
        prompt: str,
        subjects: Sequence[Subject],
        reading: Reading,
        arguments: Arguments,
    ) -> Positions:
        """The token positions of each subject in the text that image tokens attend to.

        Args:
            parts: the pipeline, or one of the same class with its tokenizers alone.
            arguments: further arguments of the pipeline's call, such as ``max_sequence_length`` or
                ``prompt_3``.

        Returns:
            Of each subject; less than 0 and counted from the end where text is filled up at its
            beginning.

        Raises:
            UserError: a subject that is not in the prompt, or beyond what the text encoder reads.
        """

    @abstractmethod
    def attention(self, network: Network, tokens: Tokens, reading: Reading) -> AttentionMaps:
        """The reader of its attention."""

    def map_size(self, reader: AttentionMaps, grid: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the attention maps on a grid of tokens."""
        return grid

    def picture_latents(self, pipe: Pipeline, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Latents of the loop as the autoencoder decodes them, (B, C, H, W): to look at a predicted
        x₀."""
        config = pipe.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        scaled: Tensor = latents / config.scaling_factor + shift
        return scaled


class JointFamily(Family):
    """Text and image attend together; the middle third of the joint blocks is read unless told
    otherwise.

    Attributes:
        layer: what a joint block calls its attention.
    """

    text_first = True
    layer: ClassVar[str] = "attn"

    def joint_blocks(self, network: Network) -> Sequence[Network]:
        """The blocks in which image and text attend together, in the network's order."""
        return list(network.transformer_blocks)

    def attention(self, network: Network, tokens: Tokens, reading: Reading) -> AttentionMaps:
        layers: list[nn.Module] = [
            getattr(block, self.layer) for block in self.joint_blocks(network)
        ]
        third = len(layers) // 3
        chosen = reading.choose(layers, slice(third, max(third + 1, len(layers) - third)))
        return FusedMaps(chosen, tokens, self.text_first, reading.keys)


def _select(
    name: str, value: Any, index: Sequence[int], batch: int, listed: bool, axis: int = 0
) -> Any:
    """Of an argument these rows.

    Args:
        listed: whether a batch of texts or pictures is a list; else a list is one of tensors.
    """
    if name in NO_BATCH:
        return value
    if isinstance(value, Tensor):
        has_batch = value.ndim > axis and value.shape[axis] == batch
        rows = torch.tensor(index, device=value.device)
        return value.index_select(axis, rows) if has_batch else value
    if isinstance(value, dict):
        return {key: _select(key, each, index, batch, listed) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        if listed and len(value) == batch:
            return [value[row] for row in index]
        return type(value)(_select(name, each, index, batch, listed, axis) for each in value)
    return value


def to_fraction(timesteps: Tensor, given: Tensor) -> Tensor:
    """A thousandth, rounded as pipelines do that cast to the latents' dtype before they divide."""
    return timesteps.to(torch.float32).to(given.dtype) / 1000


def unpack(latents: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h w, 4 C) -> (B, C, 2 h, 2 w)."""
    height, width = grid
    squares = latents.view(len(latents), height, width, -1, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(len(latents), -1, 2 * height, 2 * width)


def clean_prompt(pipeline: Pipeline, prompt: str, arguments: Arguments) -> str:
    """The prompt as the pipeline hands it to its tokenizer: lower-cased, or cleaned of what is no
    caption."""
    clean = bool(resolve_argument(pipeline, arguments, "clean_caption"))
    return str(pipeline._text_preprocessing([prompt], clean_caption=clean)[0])


PositionMap = Callable[[int], int | None]


def make_position_map(
    tokenizer: Tokenizer, text: str, limit: int, *, special: bool = True
) -> PositionMap:
    """Of a token's place in a text that of it where the text encoder reads it, filled up or cut to
    ``limit`` tokens at whichever end the tokenizer does that; None for one that is cut off.
    """
    complete = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    read = tokenizer(
        text, add_special_tokens=special, padding="max_length", truncation=True, max_length=limit
    )
    own = [place for place, kept in enumerate(read["attention_mask"]) if kept]
    cut = len(complete) - len(own) if tokenizer.truncation_side == "left" else 0

    def map_position(position: int) -> int | None:
        at = position - cut
        same = 0 <= at < len(own) and read["input_ids"][own[at]] == complete[position]
        return own[at] if same else None

    return map_position


def join_texts(
    prompt: str, subjects: Sequence[Subject], texts: Sequence[tuple[int, Positions, PositionMap]]
) -> Positions:
    """Positions in several texts that stand one after the other: in all those in which a subject is
    whole.

    Args:
        texts: of each its length, the subjects' positions in the complete one, and where in it the
            text encoder reads them.
    """
    chosen: Positions = [[] for _ in subjects]
    for i in range(len(subjects)):
        start, found = 0, []
        for length, positions, map_position in texts:
            places = [map_position(p) for p in positions[i]]
            found.append([-1 if place is None else start + place for place in places])
            start += length
        whole = [places for places in found if places and -1 not in places]
        chosen[i] = [place for places in whole or found for place in places]
    return keep_reachable(prompt, subjects, chosen, lambda place: None if place < 0 else place)


def split_template(render: Callable[[str], str], prompt: str) -> tuple[str, str]:
    """What a chat template puts before and behind a prompt.

    Raises:
        UserError: it changes the prompt itself.
    """
    before, _, after = render(MARK).partition(MARK)
    if render(prompt) != before + prompt + after:
        raise UserError(
            "the chat template changes the prompt: take blanks off its ends, and special tokens out"
        )
    return before, after


def resolve_argument(pipeline: Pipeline, arguments: Arguments, name: str) -> Any:
    """An argument of the pipeline's call: as given, else its own default."""
    if arguments.get(name) is not None:
        return arguments[name]
    parameter = read_call_parameters(pipeline).get(name)
    return None if parameter is None else parameter.default


def read_call_parameters(pipeline: Pipeline) -> Mapping[str, inspect.Parameter]:
    """Of the pipeline's call; of a user's subclass that hands all on as ``**kwargs``, of the class
    below it."""
    for kind in type(pipeline).__mro__:
        if "__call__" in vars(kind):
            parameters = inspect.signature(kind.__call__).parameters
            if "prompt" in parameters:
                return parameters
    return inspect.signature(type(pipeline).__call__).parameters
