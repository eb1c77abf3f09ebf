"""Per-pixel time conditioning of a stock ``UNet2DConditionModel``, by removable hooks."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asyndm.errors import UserError

_UNSUPPORTED = {
    "class_embed_type": "class embeddings",
    "num_class_embeds": "class embeddings",
    "addition_embed_type": "added embeddings (as in SDXL)",
    "time_cond_proj_dim": "a time condition (as in LCM)",
}


class PerPixelTime:
    """Gives every latent pixel its own timestep while the context lasts.

    A residual block adds ``proj(act(emb(t)))``, one vector per sample, to the output of its first
    convolution. Here that vector is replaced by a map: the K timesteps in use are embedded and
    projected once (K rows per block), and each pixel gathers its row. At a coarser resolution the row
    is that of the top-left latent pixel of each cell (nearest, by stride), so a uniform map is exactly
    a scalar timestep. The scalar given to the network is ignored.

    Example::

        with PerPixelTime(unet) as time:
            time.set(index)                      # (B, H, W) whole timesteps in [0, T-1]
            noise = unet(x, 0, encoder_hidden_states=text).sample

    Args:
        unet: a stock network whose blocks have ``time_embedding_norm == "default"``.
        num_train_timesteps: T, the length of the table that ``set(index)`` refers to.

    Raises:
        UserError: the network conditions on time, or on more than time, in another way.

    Source: AsynDM (arXiv 2510.04504), section 4; the reference copies the network's forward instead.
    """

    def __init__(self, unet: UNet2DConditionModel, num_train_timesteps: int = 1000) -> None:
        self._unet: Any = unet
        self._num_train_timesteps = num_train_timesteps
        self._blocks: list[Any] = _time_blocks(unet)
        self._handles: list[RemovableHandle] = []
        self._projecting = False
        self._index: Tensor | None = None
        self._timesteps: Tensor | None = None
        self._embedding: Tensor | None = None
        self._rows: dict[Any, Tensor] = {}
        self._cells: dict[tuple[int, int], Tensor] = {}

    def __enter__(self) -> Self:
        for block in self._blocks:
            projection = block.time_emb_proj
            self._handles.append(projection.register_forward_hook(self._silence))
            self._handles.append(block.conv1.register_forward_hook(self._adder(block)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._index = self._timesteps = self._embedding = None
        self._rows.clear()
        self._cells.clear()

    def set(self, index: Tensor, timesteps: Tensor | None = None) -> None:
        """Choose each latent pixel's timestep for the next evaluations of the network.

        Args:
            index: (B, H, W) long, rows of ``timesteps``. A network batch of n·B repeats it n times
                (guidance: [unconditional; conditional]).
            timesteps: (K,) the timesteps in use; these K rows are embedded anew, with gradients.
                None: 0, 1, ..., T-1, embedded once per context, without gradients.
        """
        if index.ndim != 3 or index.is_floating_point():
            raise UserError(
                f"index must be a (B, H, W) map of whole numbers, got {tuple(index.shape)} {index.dtype}: round it first"
            )
        if timesteps is not None or self._timesteps is not None:
            self._embedding = None
            self._rows.clear()
        self._timesteps = timesteps
        self._index = index
        self._cells.clear()

    def _silence(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output if self._projecting else torch.zeros_like(output)

    def _adder(self, block: Any) -> Any:
        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            cells = self._cells_at(output.shape[-2], output.shape[-1], output.device)
            if output.shape[0] % cells.shape[0]:
                raise UserError(
                    f"the network's batch ({output.shape[0]}) must be a multiple of the timestep map's ({cells.shape[0]})"
                )
            added = (
                F.embedding(cells, self._rows_of(block, output.device)).permute(0, 3, 1, 2).to(output.dtype)
            )
            output.view(-1, *added.shape).add_(added)
            return output

        return add

    def _cells_at(self, height: int, width: int, device: torch.device) -> Tensor:
        """The index map at a block's resolution: (B, height, width), top-left pixel of each cell."""
        if (height, width) not in self._cells:
            if self._index is None:
                raise UserError("no timestep map: call PerPixelTime.set before the network")
            cells = self._index
            while cells.shape[-2] > height or cells.shape[-1] > width:
                cells = cells[:, ::2, ::2]
            if cells.shape[-2:] != (height, width):
                raise UserError(
                    f"a timestep map of {tuple(self._index.shape[-2:])} does not fit a block of {(height, width)}: "
                    "give it the latents' height and width"
                )
            self._cells[height, width] = cells.to(device).contiguous()
        return self._cells[height, width]

    def _rows_of(self, block: Any, device: torch.device) -> Tensor:
        """The projected embedding (K, C) of every timestep in use, for one block."""
        if block not in self._rows:
            self._projecting = True
            try:
                with torch.set_grad_enabled(torch.is_grad_enabled() and self._timesteps is not None):
                    if self._embedding is None:
                        self._embedding = self._embed(device)
                    active = self._embedding if block.skip_time_act else block.nonlinearity(self._embedding)
                    self._rows[block] = block.time_emb_proj(active)
            finally:
                self._projecting = False
        return self._rows[block]

    def _embed(self, device: torch.device) -> Tensor:
        unet = self._unet
        timesteps = self._timesteps
        if timesteps is None:
            timesteps = torch.arange(self._num_train_timesteps, device=device)
        frequencies = unet.time_proj(timesteps.to(device)).to(unet.dtype)
        embedding: Tensor = unet.time_embedding(frequencies)
        return embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)


def _time_blocks(unet: Any) -> list[Any]:
    """The residual blocks that add a time embedding; an error if the network uses time in another way."""
    for key, meaning in _UNSUPPORTED.items():
        if unet.config.get(key) is not None:
            raise UserError(f"the network uses {meaning} ({key}): only plain time conditioning is supported")
    blocks: list[Any] = []
    for name, module in unet.named_modules():
        if not isinstance(module, (ResnetBlock2D, ResnetBlockCondNorm2D)):
            continue
        if module.time_embedding_norm != "default" or isinstance(module, ResnetBlockCondNorm2D):
            raise UserError(
                f"{name} has time_embedding_norm={module.time_embedding_norm!r}: only 'default' "
                "(Stable Diffusion 1.x and 2.x) can be given a timestep per pixel"
            )
        if module.time_emb_proj is not None:
            blocks.append(module)
    return blocks
