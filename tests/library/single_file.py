"""A Stable Diffusion in one file, in the layout of its authors: diffusers' own rules turned
round."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
RESNET: list[Rule] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
]
VAE: list[Rule] = [
    ("conv_shortcut", "nin_shortcut"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"group_norm", "norm"),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0", "proj_out"),
]


def save_single_file(pipe: Any, path: Path) -> None:
    """Writes a pipeline with CLIP; its scheduler and tokenizer are left out, as they are there."""
    tensors = {}
    for name, tensor in pipe.unet.state_dict().items():
        tensors[f"model.diffusion_model.{_name_unet_key(name, pipe.unet.config)}"] = tensor
    blocks = len(pipe.vae.config.up_block_types)
    for name, tensor in pipe.vae.state_dict().items():
        tensors[f"first_stage_model.{_name_vae_key(name, blocks)}"] = tensor
    for name, tensor in pipe.text_encoder.state_dict().items():
        key = name.removeprefix("text_model.")
        tensors[f"cond_stage_model.transformer.text_model.{key}"] = tensor
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)


def _name_unet_key(name: str, config: Any) -> str:
    layers = DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"]
    if name in layers:
        return str(layers[name])
    each = config.layers_per_block + 1  # of a block's places: its layers, and one that resizes

    def within(match: re.Match[str]) -> str:
        way, block, kind, layer = match[1], int(match[2]), match[3], int(match[4])
        if way == "mid_block":
            return f"middle_block.{1 if kind == 'attentions' else 2 * layer}"
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * each}.0.op"
        if kind == "upsamplers":
            attends = "CrossAttn" in config.up_block_types[block]
            return f"output_blocks.{block * each + each - 1}.{1 + attends}.conv"
        start, part = (1, "input") if way == "down_blocks" else (0, "output")
        return f"{part}_blocks.{start + block * each + layer}.{int(kind == 'attentions')}"

    name = re.sub(r"mid_block\.", "mid_block.0.", name)
    name = re.sub(r"(downsamplers|upsamplers)\.0\.conv", r"\1.0", name)
    placed = re.sub(r"(down_blocks|mid_block|up_blocks)\.(\d)\.([a-z]+)\.(\d)", within, name)
    return _rename(placed, RESNET) if ".resnets." in name else placed


def _name_vae_key(name: str, blocks: int) -> str:
    layers = DIFFUSERS_TO_LDM_MAPPING["vae"]
    if name in layers:
        return str(layers[name])

    def turn(match: re.Match[str]) -> str:
        part = "block" if match[2] == "resnets" else "upsample"
        return f"up.{blocks - 1 - int(match[1])}.{part}{match[3] or ''}"

    up: list[Rule] = [
        (r"up_blocks\.(\d)\.(resnets)(\.\d)", turn),
        (r"up_blocks\.(\d)\.(upsamplers)()\.0", turn),
    ]
    return _rename(name, [*up, *VAE])


def _rename(name: str, rules: Sequence[Rule]) -> str:
    for old, new in rules:
        name = re.sub(old, new, name)
    return name
