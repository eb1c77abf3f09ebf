"""BLIP's question answering written out slowly, one picture and one question at a time, on the
original weights' names.

After the architecture of the BLIP paper's code (a pre-norm ViT, a post-norm BERT with
cross-attention); shares nothing with transformers' implementation or with ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HEAD = 64


def yes_share(
    weights: dict[str, Tensor], pixels: Tensor, ids: list[int], dec: int, yes: int, no: int
) -> float:
    """p(yes) / (p(yes) + p(no)) of the first answer token; pixels (3, s, s), ids of the question
    with [ENC] first."""
    seen = vision(weights, pixels)
    read = text(weights, "text_encoder", ids, seen)
    answer = text(weights, "text_decoder.bert", [dec], read)[0]
    logits = head(weights, answer)
    p = torch.softmax(logits, -1)
    return float(p[yes] / (p[yes] + p[no]))


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: dict[str, Tensor], name: str, x: Tensor, epsilon: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head after another."""
    out = []
    for start in range(0, query.shape[-1], HEAD):
        q, k, v = (x[:, start : start + HEAD] for x in (query, key, value))
        out.append(torch.softmax(q @ k.T / math.sqrt(HEAD), -1) @ v)
    return torch.cat(out, -1)


def vision(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    kernel = weights["visual_encoder.patch_embed.proj.weight"]
    size = kernel.shape[-1]
    patches = []
    for top in range(0, pixels.shape[1], size):
        for left in range(0, pixels.shape[2], size):
            patch = pixels[:, top : top + size, left : left + size]
            patches.append(
                (kernel * patch).sum((1, 2, 3)) + weights["visual_encoder.patch_embed.proj.bias"]
            )
    x = torch.cat([weights["visual_encoder.cls_token"][0], torch.stack(patches)])
    x = x + weights["visual_encoder.pos_embed"][0]
    block = 0
    while f"visual_encoder.blocks.{block}.norm1.weight" in weights:
        name = f"visual_encoder.blocks.{block}"
        q, k, v = linear(
            weights, f"{name}.attn.qkv", norm(weights, f"{name}.norm1", x, 1e-6)
        ).chunk(3, -1)
        x = x + linear(weights, f"{name}.attn.proj", attend(q, k, v))
        inner = gelu(linear(weights, f"{name}.mlp.fc1", norm(weights, f"{name}.norm2", x, 1e-6)))
        x = x + linear(weights, f"{name}.mlp.fc2", inner)
        block += 1
    return norm(weights, "visual_encoder.norm", x, 1e-6)


def text(weights: dict[str, Tensor], tower: str, ids: list[int], context: Tensor) -> Tensor:
    x = weights[f"{tower}.embeddings.word_embeddings.weight"][ids]
    x = x + weights[f"{tower}.embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(weights, f"{tower}.embeddings.LayerNorm", x, 1e-12)
    layer = 0
    while f"{tower}.encoder.layer.{layer}.output.dense.weight" in weights:
        name = f"{tower}.encoder.layer.{layer}"
        for kind, source in (("attention", x), ("crossattention", context)):
            q = linear(weights, f"{name}.{kind}.self.query", x)
            k = linear(weights, f"{name}.{kind}.self.key", source)
            v = linear(weights, f"{name}.{kind}.self.value", source)
            found = linear(weights, f"{name}.{kind}.output.dense", attend(q, k, v))
            x = norm(weights, f"{name}.{kind}.output.LayerNorm", found + x, 1e-12)
        inner = linear(
            weights, f"{name}.output.dense", gelu(linear(weights, f"{name}.intermediate.dense", x))
        )
        x = norm(weights, f"{name}.output.LayerNorm", inner + x, 1e-12)
        layer += 1
    return x


def head(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    name = "text_decoder.cls.predictions"
    x = gelu(linear(weights, f"{name}.transform.dense", x))
    x = norm(weights, f"{name}.transform.LayerNorm", x, 1e-12)
    return x @ weights[f"{name}.decoder.weight"].T + weights[f"{name}.bias"]
