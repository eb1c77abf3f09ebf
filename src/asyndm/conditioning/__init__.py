"""Per-pixel time conditioning of stock networks, one file per kind of network."""

from asyndm.conditioning.unet import PerPixelTime

__all__ = ["PerPixelTime"]
