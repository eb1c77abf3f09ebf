"""Pipelines of diffusers that share their parts with one in the registry: the same network in
another loop."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from tests.library.networks.cases import build
from tests.pipelines.registry import PIPELINES
from tests.pipelines.shared import draw_picture, draw_right_half

SMALL, LARGE = draw_picture(32, 48), draw_picture()
PAG = {"pag_scale": 3.0}
RELATIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "StableDiffusionPAGImg2ImgPipeline": ("sd_img2img", PAG),
    "StableDiffusionPAGInpaintPipeline": ("sd_inpaint", PAG),
    "StableDiffusionControlNetImg2ImgPipeline": ("sd_img2img", {"control_image": SMALL}),
    "StableDiffusionControlNetInpaintPipeline": ("sd_inpaint", {"control_image": SMALL}),
    "StableDiffusionControlNetPAGPipeline": ("sd_controlnet", PAG),
    "StableDiffusionControlNetPAGInpaintPipeline": ("sd_inpaint", {"control_image": SMALL, **PAG}),
    "StableDiffusionXLPAGImg2ImgPipeline": ("sdxl_img2img", PAG),
    "StableDiffusionXLPAGInpaintPipeline": ("sdxl_inpaint", PAG),
    "StableDiffusionXLControlNetImg2ImgPipeline": ("sdxl_img2img", {"control_image": LARGE}),
    "StableDiffusionXLControlNetInpaintPipeline": ("sdxl_inpaint", {"control_image": LARGE}),
    "StableDiffusionXLControlNetPAGPipeline": ("sdxl_controlnet", PAG),
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": (
        "sdxl_img2img",
        {"control_image": LARGE, **PAG},
    ),
    "StableDiffusion3PAGPipeline": ("sd3", PAG),
    "PixArtSigmaPAGPipeline": ("pixart", PAG),
    "SanaPAGPipeline": ("sana", PAG),
    "ChromaImg2ImgPipeline": ("chroma", {"image": LARGE, "strength": 0.8}),
    "ZImageImg2ImgPipeline": ("zimage", {"image": LARGE, "strength": 0.8}),
    "ZImageInpaintPipeline": (
        "zimage",
        {"image": LARGE, "mask_image": draw_right_half(), "strength": 0.8},
    ),
}
"""Class -> a pipeline whose parts and arguments it takes, and what its call wants beside."""
PERTURBED = {
    "StableDiffusion3PAGPipeline": "blocks.1",
    "PixArtSigmaPAGPipeline": "blocks.0",
    "SanaPAGPipeline": "transformer_blocks.0",
}


def build_relative(name: str) -> Any:
    """A pipeline of that class around the parts of another."""
    kind = getattr(diffusers, name)
    base = RELATIVES[name][0]
    wanted = inspect.signature(kind.__init__).parameters
    # parts of its own: inpainting with PAG leaves its processors behind
    parts = dict(PIPELINES[base].build().components)
    if "controlnet" in wanted:
        parts = {**build(f"{base.partition('_')[0]}_controlnet").components, **parts}
    own = {
        "requires_safety_checker": False,
        "add_watermarker": False,
        "pag_applied_layers": PERTURBED.get(name, "mid"),
    }
    pipe = kind(**{key: value for key, value in {**parts, **own}.items() if key in wanted})
    pipe.set_progress_bar_config(disable=True)
    return pipe
