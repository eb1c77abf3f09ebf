"""How strongly a picture is pulled towards its prompt."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guidance:
    """ε = ε_uncond + g (ε_cond - ε_uncond), g = `guidance_scale`; 1 is the prompt alone, at half the cost."""

    guidance_scale: float = 5.0
    negative_prompt: str | None = None
