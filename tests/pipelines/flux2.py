"""Tiny FLUX.2: dev, which Mistral reads after a system message, and klein, which Qwen3 reads in its
chat template."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
)

from tests.pipelines.qwen import make_qwen_tokenizer
from tests.pipelines.shared import LOUDER, WORDS, Tiny, finish, make_bytes_tokenizer
from tests.pipelines.zimage import CHAT, make_qwen3_config

SPECIAL = (
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[IMG]",
)
MISTRAL_CHAT = (
    "<s>{% for message in messages %}{% set text = message.content[0].text %}"
    "{% if message.role == 'system' %}[SYSTEM_PROMPT]{{ text }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ text }}[/INST]{% endif %}{% endfor %}"
)
LAYERS = (1, 2, 3)  # of the text encoder, side by side in channels
DEV = {"max_sequence_length": 64, "text_encoder_out_layers": LAYERS}
KLEIN = {"max_sequence_length": 40, "text_encoder_out_layers": LAYERS}


def make_mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Pads on the left, so that the prompt's words stand at the end; a word of WORDS is one
    token."""
    words = [word.strip(".,") for word in SYSTEM_MESSAGE.split()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_bytes_tokenizer([*words, *WORDS], SPECIAL),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIAL[4:]),
        padding_side="left",
    )
    tokenizer.chat_template = MISTRAL_CHAT
    return tokenizer


def make_mistral(
    tokenizer: PreTrainedTokenizerFast, width: int = 16
) -> Mistral3ForConditionalGeneration:
    sizes = {
        "hidden_size": width,
        "intermediate_size": width,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    text = {
        **sizes,
        "model_type": "mistral",
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
    }
    vision = {
        **sizes,
        "model_type": "pixtral",
        "num_hidden_layers": 1,
        "image_size": 28,
        "patch_size": 14,
    }
    image: Any = tokenizer.convert_tokens_to_ids("[IMG]")
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=image)
    return Mistral3ForConditionalGeneration(config)


def make_parts(**transformer: Any) -> dict[str, Any]:
    """All but the reader that a pipeline's constructor asks for."""
    config = {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 16 * len(LAYERS),
        "timestep_guidance_channels": 32,
        "axes_dims_rope": (4, 4, 4, 4),
    }
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": autoencoder,
        "transformer": Flux2Transformer2DModel(**{**config, **transformer}),
    }


def make_flux2(seed: int = 0) -> Flux2Pipeline:
    torch.manual_seed(seed)
    tokenizer = make_mistral_tokenizer()
    pipe = Flux2Pipeline(**make_parts(), text_encoder=make_mistral(tokenizer), tokenizer=tokenizer)
    return finish(pipe, seed, LOUDER | {"modulation": 0.3})


def make_flux2_klein(seed: int = 0) -> Flux2KleinPipeline:
    """As the base model: guided by a second call with an empty prompt."""
    torch.manual_seed(seed)
    tokenizer = make_qwen_tokenizer()
    tokenizer.chat_template = CHAT
    encoder = Qwen3ForCausalLM(make_qwen3_config(tokenizer, layers=3))
    pipe = Flux2KleinPipeline(
        **make_parts(guidance_embeds=False), text_encoder=encoder, tokenizer=tokenizer
    )
    return finish(pipe, seed, LOUDER | {"modulation": 0.3})


FLUX2 = {"flux2": Tiny(make_flux2, DEV), "flux2_klein": Tiny(make_flux2_klein, KLEIN)}
