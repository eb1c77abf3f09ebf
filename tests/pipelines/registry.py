"""All tiny pipelines by name."""

from __future__ import annotations

from tests.pipelines.auraflow import AURAFLOW
from tests.pipelines.chroma import CHROMA
from tests.pipelines.cogview4 import COGVIEW4
from tests.pipelines.flux import FLUX
from tests.pipelines.flux2 import FLUX2
from tests.pipelines.hidream import HIDREAM
from tests.pipelines.hunyuandit import HUNYUANDIT
from tests.pipelines.lumina2 import LUMINA2
from tests.pipelines.pixart import PIXART
from tests.pipelines.qwen import QWEN
from tests.pipelines.sana import SANA
from tests.pipelines.sd import SD
from tests.pipelines.sd3 import SD3
from tests.pipelines.sdxl import SDXL
from tests.pipelines.shared import Tiny
from tests.pipelines.zimage import ZIMAGE

FAMILIES: tuple[dict[str, Tiny], ...] = (
    *(SD, SDXL, SD3, FLUX, PIXART, SANA, QWEN),
    *(FLUX2, CHROMA, AURAFLOW, COGVIEW4, LUMINA2, ZIMAGE, HIDREAM, HUNYUANDIT),
)
PIPELINES: dict[str, Tiny] = {name: tiny for family in FAMILIES for name, tiny in family.items()}
