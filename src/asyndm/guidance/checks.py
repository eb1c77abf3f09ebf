"""Which guidance goes with which pipeline and solver, before anything runs."""

from __future__ import annotations

from typing import Any

import torch

from asyndm.errors import UserError, check_number
from asyndm.guidance.base import Guidance
from asyndm.ladder import is_flow
from asyndm.networks import Family, find_denoiser, find_family, find_helpers
from asyndm.networks.base import read_call_parameters, resolve_argument
from asyndm.protocols import Arguments, Pipeline
from asyndm.solvers import Solver

RESCALES = "rescales the pipeline's own combination"
OWN = {
    "guidance_rescale": (RESCALES, 0.0),
    "cfg_normalization": (RESCALES, False),
    "skip_guidance_layers": ("is a guidance of the pipeline's own", None),
    "cfg_trunc_ratio": ("leaves out the negative prompt in some steps", 1.0),
    "cfg_truncation": ("leaves out the negative prompt in some steps", 1.0),
}
"""Arguments of pipelines that change what they guide by: how, and with which value they do not."""


def check_choices(guidance: object, solver: object) -> None:
    """Refuse objects of another kind (a class instead of an object of it, a name), and a
    guidance_scale that is no number."""
    for setting, value, kind, example in (
        ("guidance", guidance, Guidance, "asyndm.guidance.SmoothedEnergy()"),
        ("solver", solver, Solver, "asyndm.solvers.DDIM()"),
    ):
        if not isinstance(value, kind):
            raise UserError(f"{setting} must be a {kind.__name__} such as {example}, got {value!r}")
    scale = guidance.guidance_scale if isinstance(guidance, Guidance) else None
    if scale is not None:
        check_number(scale, "guidance.guidance_scale")


def check_guidance(
    pipe: Pipeline,
    guidance: Guidance,
    solver: Solver,
    arguments: Arguments,
    eta: float | None = None,
) -> None:
    """Refuse what makes no sense together.

    Args:
        pipe: the pipeline, or one of the same class without weights.
        arguments: of its call.
        eta: η, if it is known.

    Raises:
        UserError: naming the guidance or solver, and what to choose in its place.
    """
    flow = is_flow(pipe.scheduler)
    solver.check(flow, eta or 0.0)
    where, kind = f"guidance={guidance.name}", type(pipe).__name__
    if guidance.plain and solver.evaluations == 1:
        return
    if guidance.needs_gradient and torch.is_inference_mode_enabled():
        raise UserError(
            f"{where} differentiates through the network: call it outside torch.inference_mode"
        )
    what = f"solver={solver.name}" if guidance.plain else where
    if "PAG" in kind:
        raise UserError(
            f"{what}: {kind} perturbs attention itself; give the pipeline of the same model "
            "without PAG, and guidance=pag for that"
        )
    if guidance.flow is not None and guidance.flow != flow:
        other = "flow matching alone" if guidance.flow else "diffusion models alone"
        raise UserError(f"{where} is defined for {other}, which {kind} is not: choose guidance=cfg")
    family = find_family(pipe)
    _check_own(pipe, family, guidance, what, arguments)
    if guidance.networks is not None and type(family).__name__ not in guidance.networks:
        known = ", ".join(guidance.networks)
        raise UserError(
            f"{where} is defined on networks of {known}, which {kind} has none of: "
            "choose guidance=cfg"
        )
    more = guidance.evaluates_more or guidance.needs_gradient or solver.evaluations > 1
    if more and find_helpers(pipe):
        raise UserError(
            f"{what} evaluates the network more than once in a step, and its ControlNet would have "
            "to follow: give a pipeline without one"
        )
    if guidance.evaluates_more and (solver.multistep or solver.evaluations > 1):
        raise UserError(
            f"{where} moves pictures to and fro in every step, so that solver={solver.name} has no "
            f"way to follow: choose solver={'euler' if flow else 'ddim'}"
        )
    if guidance.needs_uncond:
        _check_scale(pipe, family, guidance, arguments)


def _check_own(
    pipe: Pipeline, family: Family, guidance: Guidance, what: str, arguments: Arguments
) -> None:
    """Refuse a pipeline that does more than combine both prompts, in all steps alike."""
    for name, (reason, off) in OWN.items():
        value = resolve_argument(pipe, arguments, name)
        if value not in (None, off):
            raise UserError(f"{name}={value} {reason}, which {what} cannot follow: set it to {off}")
    scale = find_stated_scale(pipe, arguments) or 0
    if family.rescales and (guidance.needs_uncond or (scale > 1 and _is_led(arguments))):
        raise UserError(
            f"{type(pipe).__name__} brings what it combines to the norm of what is said with the "
            f"prompt, which {what} cannot follow: choose guidance=cfg, and solver=euler or "
            "solver=ab2"
        )


def _is_led(arguments: Arguments) -> bool:
    """Whether a negative prompt is given."""
    given = "negative_prompt", "negative_prompt_embeds"
    return any(arguments.get(name) is not None for name in given)


def _check_scale(pipe: Pipeline, family: Family, guidance: Guidance, arguments: Arguments) -> None:
    """Refuse a call that does not evaluate a negative prompt."""
    needs = f"guidance={guidance.name} needs what the network says without the prompt"
    if not evaluates_negative(pipe):
        raise UserError(
            f"{needs}, which {type(pipe).__name__} does not ask it (it was distilled): "
            "choose guidance=cfg"
        )
    name, scale = name_scale(pipe), find_stated_scale(pipe, arguments)
    if scale is not None and family.read_guidance_scale(scale) <= 1:
        least = 2 - family.read_guidance_scale(1.0)
        raise UserError(f"{needs}, which {name}={scale:g} leaves out: give more than {least:g}")
    if name != "guidance_scale" and not _is_led(arguments):
        raise UserError(
            f"{needs}: give the call of {type(pipe).__name__} a negative_prompt as well, if need "
            'be an empty one ("")'
        )


def evaluates_negative(pipe: Pipeline) -> bool:
    """Whether the pipeline can evaluate a negative prompt: its network was not distilled to do
    without."""
    distilled = pipe.config.get("is_distilled") or find_denoiser(pipe).config.get(
        "time_cond_proj_dim"
    )
    named = any(name.startswith("negative_prompt") for name in read_call_parameters(pipe))
    return named and not distilled


def name_scale(pipe: Pipeline) -> str:
    """What the pipeline calls g: ``guidance_scale``, or where a distilled network is told that one,
    ``true_cfg_scale``."""
    true = "true_cfg_scale" in read_call_parameters(pipe)
    return "true_cfg_scale" if true else "guidance_scale"


def find_stated_scale(pipe: Pipeline, arguments: Arguments) -> float | None:
    """g, as the pipeline's call has it, or by default; None: it has none."""
    scale: float | None = resolve_argument(pipe, arguments, name_scale(pipe))
    return scale


def find_guidance_scale(pipe: Pipeline, family: Family, arguments: Arguments) -> float:
    """g in the call that runs, which a ``callback_on_step_end`` may have changed."""
    own: Any = (
        getattr(pipe, "guidance_scale", None) if name_scale(pipe) == "guidance_scale" else None
    )
    scale = find_stated_scale(pipe, arguments) if own is None else own
    return family.read_guidance_scale(1.0 if scale is None else float(scale))


def check_context(pipe: Pipeline, guidance: Guidance) -> None:
    """Refuse what a guidance cannot set where the user makes the pipeline's call, and nobody could
    see that it was not set.

    Raises:
        UserError: an argument of that call other than a guidance_scale that the pipeline tells.
    """
    told = {"guidance_scale"} if hasattr(type(pipe), "guidance_scale") or not guidance.plain else ()
    if unset := set(guidance.arguments) - set(told):
        raise UserError(
            f"{min(unset)} is an argument of the call that is made in the context: "
            "give it there, and none to the guidance"
        )


def check_called_scale(pipe: Pipeline, guidance: Guidance) -> None:
    """Refuse a call, made in a context, with another guidance_scale than the guidance has."""
    own, called = guidance.guidance_scale, getattr(pipe, "guidance_scale", None)
    if own is not None and called is not None and own != called:
        raise UserError(
            f"guidance_scale is {own:g} in the guidance and {called:g} in the pipeline's call: "
            "give the call the same"
        )


def add_guidance(guidance: Any, arguments: Arguments) -> dict[str, Any]:
    """The arguments of the pipeline's call with those that the guidance sets.

    Raises:
        UserError: one of them is given as well, as something else.
    """
    own: dict[str, Any] = guidance.arguments
    for name, value in own.items():
        if name in arguments and arguments[name] != value and name != "negative_prompt":
            raise UserError(
                f"{name} is {value!r} in the guidance and {arguments[name]!r} in the call: "
                "give it once"
            )
    return {**own, **arguments}
