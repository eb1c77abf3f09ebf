"""Two pictures made together, by tiny pipelines that are built once."""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers import StableDiffusionPAGPipeline, StableDiffusionXLPAGPipeline
from torch import Tensor

from asyndm import sample
from asyndm.masks import Mask, NoMask
from tests.pipelines.registry import PIPELINES

PROMPTS, SUBJECTS = ["a red dog", "a cat on the carpet"], [["dog"], ["cat"]]
PAG = {"sd": StableDiffusionPAGPipeline, "sdxl": StableDiffusionXLPAGPipeline}


@cache
def make_pipe(name: str) -> Any:
    """One of the registry, which is to be left untouched."""
    return PIPELINES[name].build()


def make_pag(name: str, layers: str = "mid") -> Any:
    """Diffusers' own pipeline with the same networks."""
    own = {"requires_safety_checker": False} if name == "sd" else {"add_watermarker": False}
    pipe = PAG[name](**{**make_pipe(name).components, **own}, pag_applied_layers=layers)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(name: str, mask: Mask | None = None, pipe: Any = None, **changes: Any) -> Tensor:
    """Latents of two pictures of three steps, synchronous unless there is a mask.

    Args:
        pipe: another pipeline than `make_pipe`'s of this name.
    """
    tiny = PIPELINES[name]
    settings: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 4.0}
    settings |= {"batch_invariant": False, "output_type": "latent", **tiny.arguments}
    settings |= {"height": tiny.size[0], "width": tiny.size[1], **changes}
    pipe = make_pipe(name) if pipe is None else pipe
    made: Tensor = sample(pipe, PROMPTS, SUBJECTS, mask=mask or NoMask(), **settings)
    return made
