"""The embedded text-to-image model: a latent diffusion pipeline of about 2 million parameters.

A stock `StableDiffusionPipeline` (CLIPTokenizer, CLIPTextModel, UNet2DConditionModel,
AutoencoderKL, DDIMScheduler) small enough for a CPU: 64x64 pictures, latents of 8x16x16,
v-prediction on Stable Diffusion's betas rescaled to zero terminal SNR.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyndm.shapes.world import WORDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from asyndm.protocols import Network, Pipeline

WEIGHTS = Path(__file__).parent / "weights"
"""Home of the trained checkpoints, one diffusers folder each."""
CHECKPOINTS = ("shapes", "shapes_mixed")
LENGTH = 24
"""Tokens of a prompt, start and end included."""
WIDTH = 96
"""Width of the text encoder."""

VAE_CONFIG: dict[str, Any] = {
    "sample_size": 64,
    "latent_channels": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
UNET_CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": (2, 4),
    "norm_num_groups": 8,
    "use_linear_projection": True,
}
SD_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""What the scheduler of Stable Diffusion's checkpoints says beside its prediction type."""
SCHEDULER_CONFIG: dict[str, Any] = {
    **SD_SCHEDULER,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "leading",
}


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer in which every word of the world is one token."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        # words share beginnings: what earlier merges make of this one is where its own begin
        pieces = _apply_merges([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
    vocabulary += dict.fromkeys(a + b for a, b in merges)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    ranks: Any = merges  # transformers' stub wants texts, its tokenizer pairs
    return CLIPTokenizer(vocab=ids, merges=ranks, model_max_length=LENGTH)


def _apply_merges(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: apply the merges in order of rank."""
    for a, b in merges:
        i = 0
        while i < len(pieces) - 1:
            if (pieces[i], pieces[i + 1]) == (a, b):
                pieces[i : i + 2] = [a + b]
            i += 1
    return pieces


def build_autoencoder() -> Network:
    """The `AutoencoderKL` with random weights: f = 4, eight latent channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE_CONFIG)


def build_pipeline(autoencoder: Network | None = None) -> Pipeline:
    """The whole pipeline with random weights (and, if given, a trained autoencoder)."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = build_tokenizer()
    text: Any = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pipe: Any = StableDiffusionPipeline(
        vae=autoencoder or build_autoencoder(),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**UNET_CONFIG),
        scheduler=DDIMScheduler(**SCHEDULER_CONFIG),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    built: Pipeline = pipe
    return built


def load_pipeline(name: str = "shapes") -> Pipeline:
    """Load an embedded checkpoint, on the CPU in float32.

    Args:
        name: "shapes" (trained plainly) or "shapes_mixed" (also trained on mixed noise levels).

    Raises:
        UserError: unknown name.
    """
    from asyndm.errors import UserError
    from asyndm.models import load

    if name not in CHECKPOINTS:
        raise UserError(f"model={name!r}: choose from {', '.join(CHECKPOINTS)}")
    pipe: Pipeline = load(WEIGHTS / name, device="cpu", dtype="float32")
    return pipe
