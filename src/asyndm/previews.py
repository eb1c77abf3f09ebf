"""Pictures of a predicted x₀ in the middle of sampling."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from asyndm.networks import find_family
from asyndm.protocols import Pipeline


@torch.no_grad()
def decode(pipe: Pipeline, latents: Tensor, grid: tuple[int, int]) -> list[Image.Image]:
    """Latents as the loop has them to pictures, one at a time so that none depends on its company.

    Args:
        pipe: the pipeline whose latents they are.
        latents: (B, C, H, W), or packed (B, h w, C), such as ``StepRecord.sample``.
        grid: (h, w) of the tokens, such as ``StepRecord.timesteps.shape[-2:]``.
    """
    ready = find_family(pipe).picture_latents(pipe, latents, grid).to(pipe.vae.dtype)
    pictures: list[Image.Image] = []
    for latent in ready:
        pixels = pipe.vae.decode(latent[None], return_dict=False)[0]
        pixels = pixels[:, :, 0] if pixels.ndim == 5 else pixels  # autoencoders of films: one frame
        pictures += pipe.image_processor.postprocess(pixels, output_type="pil")
    return pictures
