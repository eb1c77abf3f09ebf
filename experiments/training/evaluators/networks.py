"""The evaluators' networks and tokenizers: small ones of the classes that the real metrics load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from asyndm.protocols import Network
from asyndm.shapes.model import build_tokenizer
from asyndm.shapes.world import WORDS
from evaluation.metrics.blip_vqa import DEVIATION, MEAN
from experiments.training.evaluators.pictures import PATCH

SIDE, WIDTH = 64, 128
NORMAL = {"mean": list(MEAN), "std": list(DEVIATION)}


def make_clip_config() -> dict[str, Any]:
    """A CLIP of open_clip, with the prompts' own tokenizer."""
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": 4,
            "width": WIDTH,
            "patch_size": PATCH,
            "head_width": 32,
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": len(build_tokenizer()),
            "width": WIDTH,
            "heads": 4,
            "layers": 3,
            "hf_tokenizer_name": "shapes",
        },
    }


def build_clip() -> Network:
    """A new one."""
    import open_clip

    return open_clip.CLIP(**make_clip_config())


def save_clip(network: Network, folder: Path) -> None:
    """As a folder that open_clip loads with local-dir, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    content = {"model_cfg": make_clip_config(), "preprocess_cfg": NORMAL}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")
    build_tokenizer().save_pretrained(folder)


def load_clip(folder: Path) -> Network:
    """A trained one."""
    import open_clip

    return open_clip.create_model(f"local-dir:{folder.resolve()}")


def build_blip() -> tuple[Network, Any]:
    """A new BLIP for question answering and its word tokenizer; the last two ids are [DEC] and
    [ENC]."""
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    words = [*special, "?", *dict.fromkeys(WORDS), "yes", "no", "[DEC]", "[ENC]"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    text = {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "encoder_hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 35,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "bos_token_id": len(words) - 2,
        "pad_token_id": 0,
        "eos_token_id": words.index("[SEP]"),
        "sep_token_id": words.index("[SEP]"),
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-6,
    }
    return BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision)), tokenizer


def save_blip(network: Network, tokenizer: Any, folder: Path) -> None:
    """As transformers keeps one, in half precision."""
    network.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def copy_vision(blip: Network, clip: Network, pictures: Tensor) -> None:
    """Starts BLIP's vision tower with CLIP's, whose blocks are alike.

    CLIP normalises tokens before the first block, x -> w (x - mean x) / std x + b, where BLIP has
    nothing. All of it but the tokens' own std is linear; it goes into the embeddings, with the mean
    std over some pictures.
    """
    ours, theirs = blip.vision_model, clip.visual
    width, scale = theirs.conv1.out_channels, theirs.ln_pre.weight
    centred = torch.eye(width) - 1 / width
    positions = theirs.positional_embedding[1:]
    first = theirs.positional_embedding[:1] + theirs.class_embedding
    tokens = theirs.conv1(pictures).flatten(2).transpose(1, 2) + positions
    fold = scale[:, None] * centred / tokens.std(-1).mean()
    kernels = theirs.conv1.weight
    ours.embeddings.patch_embedding.weight.copy_((fold @ kernels.flatten(1)).view_as(kernels))
    ours.embeddings.patch_embedding.bias.copy_(theirs.ln_pre.bias)
    ours.embeddings.position_embedding[0, 1:] = positions @ fold.T
    ours.embeddings.position_embedding[0, :1] = 0
    ours.embeddings.class_embedding[0, 0] = theirs.ln_pre(first)[0]
    names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.projection": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for mine, other in zip(ours.encoder.layers, theirs.transformer.resblocks, strict=True):
        for new, old in names.items():
            mine.get_submodule(new).load_state_dict(other.get_submodule(old).state_dict())
        mine.self_attn.qkv.weight.copy_(other.attn.in_proj_weight)
        mine.self_attn.qkv.bias.copy_(other.attn.in_proj_bias)
    ours.post_layernorm.load_state_dict(theirs.ln_post.state_dict())
