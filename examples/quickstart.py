"""The same prompt and seed under DM, DM_concave and AsynDM, side by side.

    python examples/quickstart.py                        # the embedded model, on any CPU
    python examples/quickstart.py stabilityai/stable-diffusion-3.5-medium \\
        --prompt "a rabbit playing basketball" --subjects rabbit basketball --seed 1234

A model is a diffusers folder, a hub id or one .safetensors file; docs/models.md lists those served.
"""

import argparse
import sys

from PIL import Image, ImageDraw

import asyndm
from asyndm.shapes.model import load_pipeline

CAPTION = 20  # pixels above each picture, for its method's name
SMALLEST = 256  # pixels of a picture on the sheet; smaller ones are enlarged

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("model", nargs="?", help="none: the embedded model of coloured shapes")
parser.add_argument("--prompt", help="none: a red circle and a blue square")
parser.add_argument("--subjects", nargs="+", help="words of the prompt that name things")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, help="none: the pipeline's own number")
parser.add_argument("--out", default="quickstart.png")
asked = parser.parse_args()
if (asked.prompt is None) != (asked.subjects is None):
    parser.error("--prompt and --subjects go together: the subjects are words of the prompt")
prompt = asked.prompt or "a red circle and a blue square"
subjects = asked.subjects or ["red circle", "blue square"]

masks = {
    "DM": asyndm.NoMask(),  # every pixel on the straight line: the stock pipeline
    "DM_concave": asyndm.GlobalMask(),  # every pixel on the curve
    "AsynDM": asyndm.DynamicMask(),  # the subjects' pixels on the curve, found at every step
}
pictures: list[Image.Image] = []
try:
    # Your own pipeline of diffusers will do as well; `asyndm.load` picks its device and dtype.
    pipe = asyndm.load(asked.model) if asked.model else load_pipeline("shapes")
    for name, mask in masks.items():
        print(name)
        pictures += asyndm.sample(
            pipe,
            prompt,
            subjects,
            mask=mask,
            curve=asyndm.Quadratic(0.5),  # ω = 0.5: half way between the line and the full curve
            num_inference_steps=asked.steps,
            guidance_scale=5.0,
            seed=asked.seed,  # the same noise under all three
        )
except asyndm.UserError as error:
    sys.exit(f"error: {error}")

scale = -(-SMALLEST // pictures[0].height)
width, height = (side * scale for side in pictures[0].size)
sheet = Image.new("RGB", (3 * width, CAPTION + height), "white")
for i, (name, picture) in enumerate(zip(masks, pictures, strict=True)):
    ImageDraw.Draw(sheet).text((i * width + 4, 4), name, fill="black")
    sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (i * width, CAPTION))
sheet.save(asked.out)
print(f"{', '.join(masks)}: {asked.out}")
