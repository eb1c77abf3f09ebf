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


def make(path: Path) -> Path:
    """Writes its folder, always the same one."""
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), path / "open_clip_model.safetensors")
    content = {"model_cfg": CONFIG, "preprocess_cfg": NORMAL}
    (path / "open_clip_config.json").write_text(json.dumps(content))
    return path


def make_twin(folder: Path, activation: str = "gelu") -> CLIPModel:
    """transformers' CLIPModel with the same weights."""
    text, vision = CONFIG["text_cfg"], CONFIG["vision_cfg"]
    shared: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_act": activation,
        "num_attention_heads": 2,
    }
    model: CLIPModel = CLIPModel(
        CLIPConfig(
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
    )
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    converted: dict[str, Tensor] = {}
    for side, prefix in (("text_model", ""), ("vision_model", "visual.")):
        for layer in range(2):
            old, new = f"{prefix}transformer.resblocks.{layer}", f"{side}.encoder.layers.{layer}"
            for kind in ("weight", "bias"):
                parts = state[f"{old}.attn.in_proj_{kind}"].chunk(3)
                for name, part in zip("qkv", parts, strict=True):
                    converted[f"{new}.self_attn.{name}_proj.{kind}"] = part
                for a, b in {
                    "attn.out_proj": "self_attn.out_proj",
                    "ln_1": "layer_norm1",
                    "ln_2": "layer_norm2",
                    "mlp.c_fc": "mlp.fc1",
                    "mlp.c_proj": "mlp.fc2",
                }.items():
                    converted[f"{new}.{b}.{kind}"] = state[f"{old}.{a}.{kind}"]
    for kind in ("weight", "bias"):
        converted[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        converted[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        converted[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
    converted |= {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "logit_scale": state["logit_scale"],
    }
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)
    model.eval()
    return model
