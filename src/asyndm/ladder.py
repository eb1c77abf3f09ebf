"""The noise levels of a scheduler, read at any rung between its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from asyndm.errors import UserError
from asyndm.protocols import StockScheduler

FINE = 2.0**20
"""Parts of a timestep that are told apart before it is rounded."""
OTHER_STEPS = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler")
SNAP = 1e-9
"""A pixel this near to a rung is on it: the straight line must be the scheduler's own ladder to
the bit."""


class Level(NamedTuple):
    """A noise level, or a map of them: x = alpha x₀ + sigma ε, float32."""

    alpha: Tensor
    sigma: Tensor


class Ladder:
    """N rungs, the timesteps and levels a scheduler has after its own ``set_timesteps``, then the
    clean end.

    Where a pixel stands is counted in rungs left: N-1 at the scheduler's first timestep, 0 at its
    last. Between two rungs timesteps are linear. Discrete models whose levels are entries of their
    table round the timestep and look it up, as the network was trained; else (Karras and the like)
    log(sigma/alpha) follows the timestep as in the table, and is the scheduler's own at each rung.
    Flow models are linear in sigma. Where a scheduler's step disagrees with the timesteps it hands
    out (DDIM, trailing, N not dividing T), the ladder goes by the timesteps.

    Args:
        scheduler: after ``set_timesteps``.
        device: where levels are wanted.
        ahead: whether a pixel may stand above the first rung, where the ladder goes on with its
            first slope.

    Raises:
        UserError: noise levels of another kind.
    """

    def __init__(
        self, scheduler: StockScheduler, device: torch.device | str = "cpu", ahead: bool = False
    ) -> None:
        self.flow = is_flow(scheduler)
        self.ahead = ahead
        # float64: N steps of a curve add up, and halves must stay halves to be rounded alike on
        # every device.
        self._timesteps = scheduler.timesteps.to("cpu", torch.float64).to(device)
        self._rounded = False
        if self.flow:
            self._sigmas = scheduler.sigmas.to("cpu", torch.float64).to(device)
            self.clean = self._flow_level(self._sigmas[-1])
            return
        self._alphas = scheduler.alphas_cumprod.float().to(device)
        sigmas = _find_sigmas(scheduler)
        self.clean = _find_clean_end(scheduler, sigmas, device)
        # A table is looked up where timesteps are whole and their levels those of the table.
        self._rounded = bool((self._timesteps == self._timesteps.round()).all())
        if sigmas is not None:
            logs = self._log_ratio(self._timesteps)
            own = sigmas[: len(self)].to("cpu", torch.float64).to(device).log()
            self._rounded &= bool(torch.allclose(own, logs, rtol=0, atol=1e-4))
            self._residuals = own - logs

    def __len__(self) -> int:
        """N."""
        return len(self._timesteps)

    def timestep(self, rungs: Tensor) -> Tensor:
        """float64 timesteps on these rungs, as the scheduler counts them."""
        index = self._index(rungs)
        if not self.ahead or len(self) == 1:
            return _interpolate(self._timesteps, index)
        slope = self._timesteps[0] - self._timesteps[1]
        above: Tensor = index.clamp(max=0) * slope
        return _interpolate(self._timesteps, index.clamp(min=0)) - above

    def network_timestep(self, rungs: Tensor) -> Tensor:
        """The timesteps as the network is given them: whole where the model knows whole ones only.

        Halves are common (with ω = 0.5 and N = 20 every timestep is a multiple of a quarter), and
        go to the even one as the reference's do: so what the last bits say is cut off first.
        """
        timestep = self.timestep(rungs)
        if self.flow:
            return timestep
        timestep = timestep.clamp(max=len(self._alphas) - 1)
        return (
            (timestep * FINE).round().div(FINE).round().clamp(min=0) if self._rounded else timestep
        )

    def level(self, rungs: Tensor) -> Level:
        """(α, σ) on these rungs, float32 like the state that they scale."""
        if self.flow:
            return self._flow_level(_interpolate(self._sigmas, self._index(rungs)))
        if self._rounded:
            return _make_discrete_level(self._alphas[self.network_timestep(rungs).long()])
        residuals = _interpolate(self._residuals, self._index(rungs))
        logs = self._log_ratio(self.timestep(rungs)) + residuals
        return Level(
            alpha=(1 + (2 * logs).exp()).rsqrt().float(),
            sigma=(1 + (-2 * logs).exp()).rsqrt().float(),
        )

    def _index(self, rungs: Tensor) -> Tensor:
        """Where to read a table: 0 at the first timestep, N-1 at the last; snapped to a rung."""
        index = len(self) - 1 - rungs
        nearest = index.round()
        return torch.where((index - nearest).abs() < SNAP, nearest, index)

    def _log_ratio(self, timestep: Tensor) -> Tensor:
        """log(sigma/alpha) of the model's table at any timestep, linear between whole ones."""
        alphas = self._alphas.double()
        return _interpolate(((1 - alphas) / alphas).log() / 2, timestep)

    def _flow_level(self, sigma: Tensor) -> Level:
        sigma = sigma.float()
        return Level(alpha=1 - sigma, sigma=sigma)


def copy_scheduler(scheduler: StockScheduler) -> StockScheduler:
    """A copy of a scheduler that hands out one timestep for each evaluation; the given one is left
    alone.

    Schedulers that evaluate twice a step or repeat a timestep (Heun, PNDM) become DDIM or flow
    matching of the same config. A config that says nothing of ``clip_sample`` (PNDM's, that of
    every Stable Diffusion checkpoint) means no clipping, where DDIM's own default would clip the
    latents.

    Raises:
        UserError: it has noise levels neither of a diffusion nor of a flow model.
    """
    # Else another class would put its own defaults in the place of this one's (Heun: clipping,
    # other spacing).
    config = {
        name: value for name, value in scheduler.config.items() if name != "_use_default_values"
    }
    kind = type(scheduler)
    if kind.__name__ in OTHER_STEPS or config.get("stochastic_sampling"):
        raise UserError(
            f"{kind.__name__} has a step of its own kind (for distilled or stochastic sampling), "
            "which DDIM's or Euler's cannot stand for: give the pipeline another scheduler"
        )
    try:
        if is_flow(scheduler):
            own = (kind if kind.order == 1 else FlowMatchEulerDiscreteScheduler).from_config(config)
            if hasattr(scheduler, "set_shift"):  # which leaves the config as it was
                own.set_shift(scheduler.shift)
            return own
        if not hasattr(scheduler, "alphas_cumprod"):
            raise UserError(
                f"{kind.__name__} has no noise levels of a diffusion model (no beta_schedule)"
            )
        own = kind.from_config(config)
        own.set_timesteps(10)
        if kind.order == 1 and len(own.timesteps) == 10 and bool((own.timesteps.diff() < 0).all()):
            return kind.from_config(config)
        return DDIMScheduler.from_config({"clip_sample": False, **config})
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"{kind.__name__} cannot be read as a ladder of noise levels: {error}"
        ) from error


def is_flow(scheduler: StockScheduler) -> bool:
    """Whether its levels are those of flow matching: x = (1 - σ) x₀ + σ ε."""
    config = scheduler.config
    return (
        "FlowMatch" in type(scheduler).__name__
        or config.get("prediction_type") == "flow_prediction"
    )


def _find_sigmas(scheduler: StockScheduler) -> Tensor | None:
    """sigma/alpha at each timestep and at the end, where the scheduler keeps them; DDIM and DDPM
    have a table alone."""
    sigmas = getattr(scheduler, "sigmas", None)
    return (
        sigmas
        if isinstance(sigmas, Tensor) and len(sigmas) == len(scheduler.timesteps) + 1
        else None
    )


def _find_clean_end(
    scheduler: StockScheduler, sigmas: Tensor | None, device: torch.device | str
) -> Level:
    final = getattr(scheduler, "final_alpha_cumprod", None)
    if final is None:
        final = 1.0 if sigmas is None else 1 / (1 + sigmas[-1].double() ** 2)
    return _make_discrete_level(torch.as_tensor(final, dtype=torch.float32).to(device))


def _make_discrete_level(alphas_cumprod: Tensor) -> Level:
    """ᾱ of the table, as in DDPM, is α² here."""
    return Level(alpha=alphas_cumprod.sqrt(), sigma=(1 - alphas_cumprod).sqrt())


def _interpolate(table: Tensor, index: Tensor) -> Tensor:
    """A table read at any index from 0 to its last, linear between two entries."""
    index = index.clamp(0, len(table) - 1)
    low = index.floor().long()
    return torch.lerp(table[low], table[(low + 1).clamp(max=len(table) - 1)], index - low)


def resolve_eta(scheduler: StockScheduler, eta: float | None) -> float:
    """η as stated, else 0 for a flow and 1 for a diffusion model."""
    return (0.0 if is_flow(scheduler) else 1.0) if eta is None else eta


def infer_stock_eta(scheduler: StockScheduler) -> float:
    """η of a scheduler whose own step takes none: 1 where it draws noise (ancestral, DDPM), else
    0."""
    name, kind = type(scheduler).__name__, str(scheduler.config.get("algorithm_type"))
    return float("Ancestral" in name or "DDPM" in name or kind.startswith("sde"))
