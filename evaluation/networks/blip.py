"""BLIP's networks: for visual question answering, from a folder or hub checkpoint of transformers
or from the original authors' ``.pth``, and ImageReward's, from its authors' file."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, ModuleDict, Sequential
from torch.nn import functional as F
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipTextModel,
    BlipVisionModel,
)

from asyndm.errors import UserError, join_lines
from asyndm.protocols import Network
from evaluation.networks.pretrained import Part, load_network, load_part

EPSILON = 1e-6
"""Of the vision tower's layer norms in the original code; transformers' default is 1e-5."""
RENAMES = (
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj", "vision_model.embeddings.patch_embedding"),
    ("visual_encoder.norm.", "vision_model.post_layernorm."),
    ("visual_encoder.blocks", "vision_model.encoder.layers"),
    (".attn.proj", ".self_attn.projection"),
    (".attn.qkv", ".self_attn.qkv"),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)
"""From the original names of the vision tower to those of transformers; text towers have the same
names."""
HEAD = (0, 2, 4, 6, 7)
"""The linear layers of ImageReward's head; between the others are dropouts, which do nothing here.
"""
PRETRAINING = ("blip.vision_proj.", "blip.text_proj.")
"""What ImageReward's file keeps from BLIP's pretraining and never uses."""


@dataclass(frozen=True)
class VQA:
    """A network that answers questions about pictures, with the tokens that asking takes.

    Attributes:
        enc, dec: ids that begin a question and an answer.
        yes, no: ids of these answers.
    """

    network: Network
    tokenizer: Part
    enc: int
    dec: int
    yes: int
    no: int


def load_vqa(model: str, tokenizer: str | None, revision: str | None, image_size: int) -> VQA:
    """The network in float32 for pictures of this size, position embeddings interpolated where they
    are of another.

    Args:
        model: a folder or hub id of transformers, or the original ``.pth``.
        tokenizer: folder or hub id; None: the model's own. The original file has none.

    Raises:
        UserError: it cannot be loaded, or misses weights.
    """
    place = f"model={model}"
    network = (
        _load_original(Path(model)) if model.endswith(".pth") else _load_pretrained(model, revision)
    )
    words = load_part(
        BertTokenizer,
        tokenizer or model,
        place,
        revision=None if tokenizer is not None else revision,
    )
    _resize(network, image_size)
    dec = int(network.config.text_config.bos_token_id)
    yes, no = (words(answer, add_special_tokens=False)["input_ids"][0] for answer in ("yes", "no"))
    return VQA(network.eval().requires_grad_(False), words, dec + 1, dec, yes, no)


def compute_first_logits(network: Network, seen: Tensor, questions: Tensor, dec: int) -> Tensor:
    """The logits (B, vocabulary) of the first token of the answers to unpadded questions (B, L),
    each about the picture of features `seen` (B, P, width)."""
    read = network.text_encoder(
        input_ids=questions, attention_mask=torch.ones_like(questions), encoder_hidden_states=seen
    ).last_hidden_state
    start = torch.full((len(questions), 1), dec, device=questions.device)
    logits: Tensor = network.text_decoder(input_ids=start, encoder_hidden_states=read).logits[:, -1]
    return logits


def _load_pretrained(model: str, revision: str | None) -> Network:
    place = f"model={model}"
    config = load_part(BlipConfig, model, place, revision=revision)
    config.vision_config.layer_norm_eps = EPSILON
    return load_network(
        BlipForQuestionAnswering,
        model,
        place,
        revision=revision,
        config=config,
        dtype=torch.float32,
    )


def _load_original(path: Path) -> Network:
    """The authors' file: its shapes say the sizes."""
    try:
        state = rename_weights(_read_checkpoint(path)["model"])
        network = BlipForQuestionAnswering(infer_config(state))
        network.load_state_dict(state)
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for a file that is something else
        raise UserError(f"model={path}: {join_lines(error)}") from error
    return network


def load_reward(path: Path) -> Network:
    """ImageReward's network in float32: vision_model, text_encoder, and mlp.layers, which are
    linear.

    Raises:
        KeyError: weights without which the sizes are unknown are not there.
        RuntimeError: further ones are not, or there are unknown ones.
    """
    state: dict[str, Tensor] = _read_checkpoint(path)
    used = {name: value for name, value in state.items() if not name.startswith(PRETRAINING)}
    used = rename_weights({name.removeprefix("blip."): value for name, value in used.items()})
    config: Any = infer_config(used)
    shapes = {i: used[f"mlp.layers.{i}.weight"].shape for i in HEAD}
    layers = OrderedDict[str, Module](
        (str(i), Linear(into, out)) for i, (out, into) in shapes.items()
    )
    network = ModuleDict(
        {
            "vision_model": BlipVisionModel(config.vision_config),
            "text_encoder": BlipTextModel(config.text_config, add_pooling_layer=False),
            "mlp": ModuleDict({"layers": Sequential(layers)}),
        }
    )
    network.load_state_dict(used)
    return network.eval().requires_grad_(False)


def rename_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original authors' weights under the names of transformers."""

    def rename(name: str) -> str:
        for old, new in RENAMES:
            name = name.replace(old, new)
        return name

    return {rename(name): value for name, value in state.items() if "position_ids" not in name}


def infer_config(state: dict[str, Tensor]) -> BlipConfig:
    """The sizes of renamed weights by their shapes; heads are 64 wide, as in all of the authors'
    models.

    Raises:
        KeyError: weights are not there.
    """
    patch = state["vision_model.embeddings.patch_embedding.weight"]
    places = state["vision_model.embeddings.position_embedding"].shape[1] - 1
    embeddings, layer = "text_encoder.embeddings", "text_encoder.encoder.layer.0"
    vocabulary, width = state[f"{embeddings}.word_embeddings.weight"].shape
    positions = state[f"{embeddings}.position_embeddings.weight"].shape[0]
    return BlipConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": width,
            "encoder_hidden_size": state[f"{layer}.crossattention.self.key.weight"].shape[1],
            "intermediate_size": state[f"{layer}.intermediate.dense.weight"].shape[0],
            "num_hidden_layers": _count_layers(state, r"text_encoder\.encoder\.layer\.(\d+)\."),
            "num_attention_heads": width // 64,
            "max_position_embeddings": positions,
            # the authors add [DEC] and [ENC], in this order, behind BERT's vocabulary
            "bos_token_id": vocabulary - 2,
        },
        vision_config={
            "hidden_size": patch.shape[0],
            "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _count_layers(state, r"vision_model\.encoder\.layers\.(\d+)\."),
            "num_attention_heads": patch.shape[0] // 64,
            "image_size": round(places**0.5) * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "layer_norm_eps": EPSILON,
        },
    )


def _read_checkpoint(path: Path) -> Any:
    """What a file of PyTorch holds.

    Raises:
        UserError: it is none, or holds more than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError) as error:
        raise UserError(f"{path}: not a file of weights of PyTorch, or cut short") from error


def _count_layers(state: dict[str, Tensor], pattern: str) -> int:
    return 1 + max(int(found[1]) for name in state if (found := re.match(pattern, name)))


def _resize(network: Network, image_size: int) -> None:
    """Fits the position embeddings to pictures of this size, bicubically, as the original does when
    it loads."""
    embeddings, config = network.vision_model.embeddings, network.config.vision_config
    table = embeddings.position_embedding.data
    if image_size % config.patch_size:
        raise UserError(
            f"image_size={image_size}: must be a multiple of the model's {config.patch_size}"
        )
    old, new = round((table.shape[1] - 1) ** 0.5), image_size // config.patch_size
    if old == new:
        return
    grid = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    embeddings.position_embedding = torch.nn.Parameter(
        torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    )
    embeddings.image_size = config.image_size = image_size
