"""The same prompt and seed under DM, DM_concave and AsynDM, side by side.

    python examples/quickstart.py                        # the embedded model, on any CPU
    python examples/quickstart.py stabilityai/stable-diffusion-3.5-medium \\
        --prompt "a rabbit playing basketball" --subjects rabbit basketball --seed 1234

A model is a diffusers folder, a hub id or one .safetensors file; docs/models.md lists those served.
"""

import argparse

from PIL import Image

import asyndm
from asyndm.shapes.model import load_pipeline

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("model", nargs="?", help="none: the embedded model of coloured shapes")
parser.add_argument("--prompt", default="a red circle and a blue square")
parser.add_argument("--subjects", nargs="+", default=["red circle", "blue square"])
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, help="none: the pipeline's own number")
parser.add_argument("--out", default="quickstart.png")
asked = parser.parse_args()

# Your own pipeline of diffusers will do as well; `asyndm.load` picks its device and dtype.
pipe = asyndm.load(asked.model) if asked.model else load_pipeline("shapes")

masks = {
    "DM": asyndm.NoMask(),  # every pixel on the straight line: the stock pipeline
    "DM_concave": asyndm.GlobalMask(),  # every pixel on the curve
    "AsynDM": asyndm.DynamicMask(),  # the subjects' pixels on the curve, found at every step
}
pictures: list[Image.Image] = []
for name, mask in masks.items():
    print(name)
    pictures += asyndm.sample(
        pipe,
        asked.prompt,
        asked.subjects,
        mask=mask,
        curve=asyndm.Quadratic(0.5),  # ω = 0.5: half way between the line and the full curve
        num_inference_steps=asked.steps,
        guidance_scale=5.0,
        seed=asked.seed,  # the same noise under all three
    )

width, height = pictures[0].size
sheet = Image.new("RGB", (3 * width, height))
for i, picture in enumerate(pictures):
    sheet.paste(picture, (i * width, 0))
sheet.save(asked.out)
print(f"{', '.join(masks)}: {asked.out}")
