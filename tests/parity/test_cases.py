"""Whole runs of every mode through a stock pipeline, against the reference: timestep maps, masks,
latents.

What agreement means: the float timesteps after one update, from the recorded ones before it, within
1e-3; those of a whole trajectory, over which the reference's float32 state drifts, within 5e-3;
rounded ones equal, except where the recorded float lies within 1e-3 of a half: either rounding is
right there, and the case is driven by the recorded maps from that step on (two of the 40 recorded
cases are, both of 10 steps). Masks equal to the pixel; latents within 1e-5 of the case's largest
absolute value. Two differences of rule are known and followed where a folder shows them: before the
first attention map the reference gives all pixels to the subject of largest token index, and its
synchronous grid is its own where N does not divide T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from asyndm.attention import Reading
from asyndm.masks import DynamicMask, GlobalMask, Mask, NoMask, StaticMask
from asyndm.method import Method
from asyndm.networks.unet import UNet
from asyndm.records import StepRecord
from asyndm.scene import Scene
from asyndm.scheduler import AsynchronousScheduler
from asyndm.session import Session

from .reference import (
    DRIFT,
    TIMESTEPS,
    Case,
    Reference,
    is_near_half,
    measure_relative,
    to_blocks,
    to_pixels,
)

LATENTS = 1e-5


class Driven:
    """The method's rule, checked against the recorded maps at every step, and driven by them where
    a tie rounds apart.

    An update is compared from the recorded state it starts at: the reference's own float32 drift is
    not ours.
    """

    def __init__(self, reference: Reference, case: Case, method: Method, scene: Scene) -> None:
        self._reference, self._method, self._scene = reference, method, scene
        self._recorded = read_maps(case, len(scene.concavity))
        self._own_grid = is_on_own_grid(reference, case)
        self.largest_difference = 0.0
        self.ties = 0

    def __call__(
        self, rungs: Tensor, remaining: int, num_inference_steps: int, weights: Tensor
    ) -> Tensor:
        N = num_inference_steps
        recorded = self._row(N - remaining)
        if self._own_grid:
            return self._reference.to_rungs(recorded, N)
        first = remaining == N
        start = (
            torch.full_like(rungs, N)
            if first
            else self._reference.to_rungs(self._row(N - remaining - 1), N)
        )
        difference = (self._move(start, remaining, N, weights) - recorded).abs().max()
        self.largest_difference = max(self.largest_difference, float(difference))
        assert self.largest_difference <= TIMESTEPS
        ours = self._move(rungs, remaining, N, weights)
        assert (ours - recorded).abs().max() <= DRIFT
        different = ours.round() != recorded.round()
        assert bool(is_near_half(recorded)[different].all()), (
            "a timestep rounds differently without a tie"
        )
        self.ties += int(different.sum())
        return self._reference.to_rungs(torch.where(different, recorded, ours), N)

    def _move(self, rungs: Tensor, remaining: int, steps: int, weights: Tensor) -> Tensor:
        """In timesteps."""
        places = self._method.move(rungs, remaining, steps, weights, self._scene)
        return self._reference.to_timesteps(places, steps)

    def _row(self, row: int) -> Tensor:
        return to_pixels(self._recorded[row], self._scene.size).double()


def read_maps(case: Case, batch: int) -> Tensor:
    """(N+1, B, h, w) timesteps: those recorded, or the synchronous ones of DM."""
    if "state_t" in case.tensors:
        return case.tensors["state_t"]
    levels = torch.cat([case.tensors["t_int"], torch.zeros(1, dtype=torch.long)]).double()
    return levels[:, None, None, None].expand(-1, batch, 1, 1)


def is_on_own_grid(reference: Reference, case: Case) -> bool:
    """Whether the reference took a synchronous grid that is not the straight line."""
    return case.mode == "base" and reference.train_timesteps % case.steps != 0


@dataclass(frozen=True)
class Starting(Mask):
    """Another mask, with these weights before the first evaluation."""

    mask: Mask
    weights: Tensor

    name = "starting"

    def initial(self, scene: Scene, rehearse: Callable[[], Tensor]) -> Tensor:
        return self.weights

    def follow(self, weights: Tensor, maps: Tensor | None, scene: Scene) -> Tensor:
        return self.mask.follow(weights, maps, scene)


def make_mask(case: Case) -> Mask:
    threshold = case.settings.get("mask_thr", 1.0)
    masks = {
        "base": NoMask(),
        "base2": GlobalMask(),
        "tgt_dynamic": DynamicMask(threshold),
        "tgt_static": StaticMask(threshold),
    }
    return masks[case.mode]


def make_method(reference: Reference, case: Case, mask: Mask) -> Method:
    batch = len(reference.inputs["init_latents"])
    return Method(case.curve, mask, torch.tensor([case.concavities] * batch, dtype=torch.float64))


def make_scene(reference: Reference, method: Method) -> Scene:
    height, width = reference.inputs["init_latents"].shape[-2:]
    return method.make_scene((height, width), torch.device("cpu"))


def run(
    reference: Reference,
    case: Case,
    method: Method,
    callback: Callable[[StepRecord], None],
    read: bool,
) -> Tensor:
    """The stock pipeline's own call, with the recorded noise."""
    inputs, settings = reference.inputs, case.settings
    pipe, x = reference.pipe(settings["unet"]), inputs["init_latents"]
    guidance = float(settings["guidance"])
    scheduler = AsynchronousScheduler(
        pipe.scheduler, method, eta=float(settings["eta"]), callback=callback, images=range(len(x))
    )
    draws = iter(inputs["step_noise"])
    scheduler._draw = lambda x, generator: next(draws)  # type: ignore[method-assign]
    tokens = [[[token] for token in case.tokens]] * len(x)
    reader = UNet().attention(pipe.unet, tokens, Reading()) if read else None
    with Session(pipe, UNet(), scheduler, reader).open():
        images: Tensor = pipe(
            prompt_embeds=inputs["cond"],
            negative_prompt_embeds=None if guidance == 1 else inputs["uncond"],
            latents=x,
            num_inference_steps=case.steps,
            guidance_scale=guidance,
            output_type="latent",
        ).images
    return images


def compute_initial_weights(reference: Reference, case: Case, method: Method) -> Tensor:
    """Ours, equal to those recorded; the recorded ones where the reference's rule is another."""
    if case.mode == "tgt_static":
        return compute_static_weights(reference, reference.case(case.settings["mask_from"]))
    scene = make_scene(reference, method)
    weights = method.mask.initial(scene, never)
    if case.mode == "tgt_dynamic":
        recorded = case.tensors["masks"][0].double()
        last = max(range(len(case.tokens)), key=lambda subject: case.tokens[subject])
        if case.concavities.index(max(case.concavities)) != last:
            return to_pixels(recorded, scene.size)
        assert torch.equal(to_blocks(scene.remove_overlap(weights), recorded), recorded)
    return weights


def compute_static_weights(reference: Reference, source: Case) -> Tensor:
    """The static masks found by a complete synchronous run, equal to those recorded with it."""
    recorded = source.tensors["static_masks16"].double()
    mask = StaticMask(source.settings["mask_thr"])
    method = make_method(reference, source, NoMask())
    scene = make_scene(reference, method)
    if is_on_own_grid(reference, source):
        return to_pixels(recorded, scene.size)
    maps: list[Tensor] = []

    def keep(record: StepRecord) -> None:
        assert record.maps is not None
        maps.append(record.maps)

    run(reference, source, method, keep, read=True)
    weights = scene.remove_overlap(mask.initial(scene, lambda: torch.stack(maps).mean(0)))
    assert torch.equal(to_blocks(weights, recorded), recorded)
    return weights


def never() -> Tensor:
    raise AssertionError("this mask needs no rehearsal")


@pytest.fixture
def case(reference: Reference, case_id: str) -> Case:
    return reference.case(case_id)


def test_case(reference: Reference, case: Case) -> None:
    tensors, mask = case.tensors, make_mask(case)
    method = make_method(reference, case, mask)
    scene = make_scene(reference, method)
    driven = Driven(reference, case, method, scene)
    mean_maps: list[Tensor] = []
    worst: dict[str, float] = {}

    def note(name: str, difference: float) -> None:
        worst[name] = max(worst.get(name, 0.0), difference)

    def check(record: StepRecord) -> None:
        row = record.step - 1
        if "masks" in tensors:
            recorded = tensors["masks"].double()
            steering = to_blocks(scene.remove_overlap(record.weights), recorded)
            assert torch.equal(steering, recorded[row]), f"masks differ before step {record.step}"
        if case.mode == "tgt_dynamic":
            found = scene.remove_overlap(mask.follow(record.weights, record.maps, scene))
            assert torch.equal(to_blocks(found, recorded), recorded[record.step]), (
                f"masks after {record.step}"
            )
        if "latents" in tensors:
            note("latents", measure_relative(record.latents, tensors["latents"][row]))
        if "noise_pred" in tensors:
            note("noise_pred", measure_relative(record.output, tensors["noise_pred"][row]))
        if record.maps is not None:
            mean_maps.append(record.maps.flatten(2).transpose(1, 2))
            if "mask_raw" in tensors:
                note("mask_raw", measure_relative(mean_maps[-1], tensors["mask_raw"][row]))
        if not record.remaining:
            assert (record.next_timesteps == 0).all()

    started = Starting(mask, compute_initial_weights(reference, case, method))
    read = mask.follows_attention or "mask_mean_over_steps" in tensors
    final = run(reference, case, replace(method, mask=started, advance=driven), check, read)
    if "mask_mean_over_steps" in tensors:
        note(
            "mask_mean",
            measure_relative(torch.stack(mean_maps).mean(0), tensors["mask_mean_over_steps"]),
        )
    scale = float(case.settings["final_absmax"])
    note("final_sub8", measure_relative(final[:, :, ::8, ::8], tensors["final_sub8"], scale))
    if "final" in tensors:
        note("final", measure_relative(final, tensors["final"], scale))
    note("final_absmax", abs(float(final.abs().max()) - scale) / scale)
    print(
        case.id, f"timesteps {driven.largest_difference:.1e}, {driven.ties} ties,", *worst.items()
    )
    assert all(difference <= LATENTS for difference in worst.values()), worst
