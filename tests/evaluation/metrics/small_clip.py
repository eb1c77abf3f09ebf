"""A small CLIP of random weights, as open_clip keeps one and as transformers computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

CONFIG: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
}
NORMAL = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
LAYER_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
SAME_WEIGHTS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "logit_scale": "logit_scale",
}
"""open_clip's names of weights, and transformers' names of the same ones."""


def make_clip(path: Path) -> Path:
    """Writes its folder, always the same one."""
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), path / "open_clip_model.safetensors")
    content = {"model_cfg": CONFIG, "preprocess_cfg": NORMAL}
    (path / "open_clip_config.json").write_text(json.dumps(content))
    return path


def make_twin(folder: Path, activation: str = "gelu") -> CLIPModel:
    """transformers' CLIPModel with the same weights."""
    model: CLIPModel = CLIPModel(_configure_twin(activation))
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    converted = {new: state[old] for old, new in SAME_WEIGHTS.items()}
    for side, prefix in (("text_model", ""), ("vision_model", "visual.")):
        for layer in range(2):
            old, new = f"{prefix}transformer.resblocks.{layer}", f"{side}.encoder.layers.{layer}"
            converted |= _convert_layer(state, old, new)
    # transformers multiplies by a linear layer's weights, open_clip by a matrix from the right.
    converted["text_projection.weight"] = state["text_projection"].T
    converted["visual_projection.weight"] = state["visual.proj"].T
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)
    model.eval()
    return model


def _configure_twin(activation: str) -> CLIPConfig:
    text, vision = CONFIG["text_cfg"], CONFIG["vision_cfg"]
    shared: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_act": activation,
        "num_attention_heads": 2,
    }
    return CLIPConfig(
        text_config={
            **shared,
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "eos_token_id": 49407,
        },
        vision_config={
            **shared,
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        projection_dim=CONFIG["embed_dim"],
    )


def _convert_layer(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """The weights of one layer of a transformer, by transformers' names."""
    converted = {}
    for end in ("weight", "bias"):
        # open_clip keeps query, key and value in one matrix.
        parts = state[f"{old}.attn.in_proj_{end}"].chunk(3)
        for letter, part in zip("qkv", parts, strict=True):
            converted[f"{new}.self_attn.{letter}_proj.{end}"] = part
        for a, b in LAYER_PARTS.items():
            converted[f"{new}.{b}.{end}"] = state[f"{old}.{a}.{end}"]
    return converted
