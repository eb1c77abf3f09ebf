"""A BLIP of real size, to be timed."""

from __future__ import annotations

from pathlib import Path

import torch

from evaluation.networks.weights import EMBEDDED

TOKENS = ("bos", "pad", "eos", "sep")


def build_large_blip(folder: Path) -> None:
    """A BLIP of the published base model's size, with random weights and the small one's
    vocabulary."""
    from transformers import AutoTokenizer, BlipConfig, BlipForQuestionAnswering

    small = BlipConfig.from_pretrained(EMBEDDED / "blip_vqa").text_config
    text = {f"{name}_token_id": getattr(small, f"{name}_token_id") for name in TOKENS}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config=text | {"encoder_hidden_size": 768}, vision_config={"image_size": 480}
    )
    BlipForQuestionAnswering(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED / "blip_vqa").save_pretrained(folder)
