"""Small detectors of random weights, and a CLIP that tells colours apart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from tests.evaluation.metrics.small_clip import CONFIG

LABELS = {0: "person", 1: "Motorbike", 2: "mouse", 3: "TV monitor"}


def make_detector(root: Path) -> dict[str, Path]:
    """Writes the folders of all, by their names."""
    torch.manual_seed(0)
    for kind in ("yolos", "rtdetr"):
        build_detector(kind).save_pretrained(root / kind)
    processor = YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 48})
    processor.save_pretrained(root / "yolos")
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(root / "rtdetr")
    (root / "clip").mkdir()
    clip = open_clip.CLIP(**CONFIG)
    spread_weights(clip.named_parameters())
    save_file(clip.state_dict(), root / "clip" / "open_clip_model.safetensors")
    normal = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    content = {"model_cfg": CONFIG, "preprocess_cfg": normal}
    (root / "clip" / "open_clip_config.json").write_text(json.dumps(content))
    return {path.name: path for path in root.iterdir()}


def build_detector(kind: str) -> Any:
    """A detector of random weights, of boxes all over the picture."""
    labels: dict[str, Any] = {
        "id2label": LABELS,
        "label2id": {name: n for n, name in LABELS.items()},
    }
    if kind == "yolos":
        shared: dict[str, Any] = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        model: Any = YolosForObjectDetection(
            YolosConfig(
                **shared, **labels, image_size=[32, 48], patch_size=16, num_detection_tokens=12
            )
        )
        changed = model.named_parameters()
    else:
        sizes: dict[str, Any] = {
            "embedding_size": 8,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
        }
        stages: dict[str, Any] = {
            "layer_type": "basic",
            "out_features": ["stage2", "stage3", "stage4"],
        }
        backbone = RTDetrResNetConfig(**sizes, **stages)
        wide: dict[str, Any] = {
            "encoder_hidden_dim": 16,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "d_model": 16,
        }
        heads: dict[str, Any] = {
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "decoder_layers": 2,
        }
        channels: dict[str, Any] = {
            "encoder_in_channels": [8, 16, 16],
            "decoder_in_channels": [16, 16, 16],
        }
        model = RTDetrForObjectDetection(
            RTDetrConfig(
                backbone_config=backbone, num_queries=12, **wide, **heads, **channels, **labels
            )
        )
        changed = ((n, p) for n, p in model.named_parameters() if "_embed" in n and "decoder" in n)
    spread_weights(changed)
    return model


def spread_weights(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
    """Weights so wide that outputs differ from picture to picture."""
    for name, tensor in parameters:
        scale = ("norm" in name or "ln_" in name) and "weight" in name
        torch.nn.init.normal_(tensor, 1.0 if scale else 0.0, 0.4)
