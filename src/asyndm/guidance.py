"""How strongly a picture is pulled towards its prompt. No torch: it is read where runs are
planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ClassifierFree:
    """ε = ε_uncond + g (ε_cond - ε_uncond), g = `guidance_scale`; 1 is the prompt alone, at half
    the cost.

    None: the pipeline's own. What it holds are arguments of the pipeline's call.
    """

    guidance_scale: float | None = None
    negative_prompt: str | None = None

    @property
    def label(self) -> str:
        """What it is called in tables: "5", or "5 not 'blurry'"."""
        scale, negative = self.guidance_scale, self.negative_prompt
        words = ["" if scale is None else f"{scale:g}", f"not {negative!r}" if negative else ""]
        return " ".join(filter(None, words))

    def is_off(self, guided: bool = True) -> bool:
        """Whether nothing leads away from a negative prompt, so that one is without effect.

        Args:
            guided: whether the pipeline evaluates twice for a guidance_scale above 1. False: its
                network was distilled and is told the number, which says nothing of a negative
                prompt.
        """
        return guided and self.guidance_scale in (0, 1)

    def evaluations(self, guided: bool = True, arguments: Mapping[str, Any] | None = None) -> int:
        """Of the network, for each picture in a step.

        Args:
            guided: as in `is_off`. False: what makes the pipeline evaluate twice is a
                ``true_cfg_scale``, where there is a negative prompt.
            arguments: others of the pipeline's call.
        """
        given: Mapping[str, Any] = arguments or {}
        if guided:
            # A pipeline's own scale is above 1 in all of diffusers, or it would not guide.
            return 1 if self.guidance_scale is not None and self.guidance_scale <= 1 else 2
        negative = self.negative_prompt or given.get("negative_prompt")
        return 2 if negative is not None and (given.get("true_cfg_scale") or 0) > 1 else 1
