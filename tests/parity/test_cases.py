"""Whole runs of every mode, against the reference: timestep maps, masks, latents.

What agreement means: the float timesteps after one update, from the recorded ones before it, within 1e-3; those of a
whole trajectory, over which the reference's float32 state drifts, within 5e-3; rounded ones equal, except where the
recorded float lies within 1e-3 of a half: either rounding is right there, and the case is driven by the recorded maps
from that step on (two of the 40 recorded cases are, both of 10 steps). Masks equal to the pixel; latents within 1e-5 of
the case's largest absolute value. Two differences of rule are known and followed where a folder shows them: before the
first attention map the reference gives all pixels to the subject of largest token index, and its synchronous grid is
its own where N does not divide T.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from asyndm.algorithm import NextTimesteps, Schedule, StepRecord
from asyndm.curves import Horizon
from asyndm.guided import GuidedNetwork
from asyndm.masks import DynamicMask, GlobalMask, Mask, NoMask, Scene, StaticMask
from asyndm.sampler import Batch
from asyndm.steps import AlphaTable, Prediction

from .reference import DRIFT, TIMESTEPS, Case, Reference, near_half, relative, to_blocks, to_pixels

LATENTS = 1e-5


class Driven:
    """The schedule, checked against the recorded maps at every step, and driven by them where a tie rounds apart.

    An update is compared from the recorded state it starts at: the reference's own float32 drift is not ours.
    """

    def __init__(self, schedule: NextTimesteps, recorded: Tensor, horizon: Horizon, own_grid: bool) -> None:
        self._schedule, self._recorded, self._horizon, self._own_grid = schedule, recorded, horizon, own_grid
        self.largest_difference = 0.0
        self.ties = 0

    def __call__(self, t: Tensor, remaining: int, weights: Tensor) -> Tensor:
        row = self._horizon.num_inference_steps - remaining
        recorded = self._row(row, t)
        if self._own_grid:
            return recorded
        start = self._row(row - 1, t) if row else torch.full_like(t, self._horizon.t_start)
        difference = (self._schedule(start, remaining, weights) - recorded).abs().max()
        self.largest_difference = max(self.largest_difference, float(difference))
        assert self.largest_difference <= TIMESTEPS
        ours = self._schedule(t, remaining, weights)
        assert (ours - recorded).abs().max() <= DRIFT
        different = ours.round() != recorded.round()
        assert bool(near_half(recorded)[different].all()), "a timestep rounds differently without a tie"
        self.ties += int(different.sum())
        return torch.where(different, recorded, ours)

    def _row(self, row: int, like: Tensor) -> Tensor:
        return to_pixels(self._recorded[row], (like.shape[-2], like.shape[-1])).double()


def recorded_maps(case: Case, x: Tensor) -> Tensor:
    """(N+1, B, h, w) timesteps: those recorded, or the synchronous ones of DM."""
    if "state_t" in case.tensors:
        return case.tensors["state_t"]
    levels = torch.cat([case.tensors["t_int"], torch.zeros(1, dtype=torch.long)]).double()
    return levels[:, None, None, None].expand(-1, len(x), 1, 1)


def mask_of(case: Case) -> Mask:
    threshold = case.settings.get("mask_thr", 1.0)
    masks = {
        "base": NoMask(),
        "base2": GlobalMask(),
        "tgt_dynamic": DynamicMask(threshold),
        "tgt_static": StaticMask(threshold),
    }
    return masks[case.mode]


def batch_of(reference: Reference, case: Case) -> Batch:
    inputs, guidance = reference.inputs, float(case.settings["guidance"])
    x = inputs["init_latents"]
    horizon = reference.horizon(case.steps)
    scene = Scene(torch.tensor([case.concavities] * len(x), dtype=torch.float64), (x.shape[-2], x.shape[-1]))
    network = partial(
        GuidedNetwork,
        reference.unet(case.settings["unet"]),
        inputs["cond"],
        None if guidance == 1 else inputs["uncond"],
        guidance,
        num_train_timesteps=horizon.num_train_timesteps,
    )
    return Batch(
        network=network,
        tokens=[[[token] for token in case.tokens]] * len(x),
        x=x,
        noise=inputs["step_noise"][: case.steps] if case.settings["eta"] > 0 else None,
        scene=scene,
        horizon=horizon,
        schedule=Schedule(case.curve, horizon, scene),
        alphas=AlphaTable.from_scheduler(reference.scheduler),
        prediction=Prediction.from_config(reference.scheduler.config),
        eta=float(case.settings["eta"]),
    )


def initial_weights(reference: Reference, case: Case, batch: Batch, mask: Mask) -> Tensor:
    """Ours, equal to those recorded; the recorded ones where the reference's rule is another."""
    if case.mode == "tgt_static":
        return static_weights(reference, reference.case(case.settings["mask_from"]))
    weights = mask.initial(batch.scene, batch.rehearse)
    if case.mode == "tgt_dynamic":
        recorded = case.tensors["masks"][0].double()
        last = max(range(len(case.tokens)), key=lambda subject: case.tokens[subject])
        if case.concavities.index(max(case.concavities)) != last:
            return to_pixels(recorded, batch.scene.size)
        assert torch.equal(to_blocks(batch.scene.exclusive(weights), recorded), recorded)
    return weights


def static_weights(reference: Reference, source: Case) -> Tensor:
    """The static masks found by a complete synchronous run, equal to those recorded with it."""
    batch, recorded = batch_of(reference, source), source.tensors["static_masks16"].double()
    if on_own_grid(source, batch):
        return to_pixels(recorded, batch.scene.size)
    mask = StaticMask(source.settings["mask_thr"])
    weights = batch.scene.exclusive(mask.initial(batch.scene, batch.rehearse))
    assert torch.equal(to_blocks(weights, recorded), recorded)
    return weights


def on_own_grid(case: Case, batch: Batch) -> bool:
    """Whether the reference took a synchronous grid that is not the straight line."""
    return case.mode == "base" and batch.horizon.num_train_timesteps % case.steps != 0


@pytest.fixture
def case(reference: Reference, case_id: str) -> Case:
    return reference.case(case_id)


def test_case(reference: Reference, case: Case) -> None:
    batch, mask, tensors = batch_of(reference, case), mask_of(case), case.tensors
    weights = initial_weights(reference, case, batch, mask)
    driven = Driven(batch.schedule, recorded_maps(case, batch.x), batch.horizon, on_own_grid(case, batch))
    mean_maps: list[Tensor] = []
    worst: dict[str, float] = {}

    def note(name: str, difference: float) -> None:
        worst[name] = max(worst.get(name, 0.0), difference)

    def check(record: StepRecord) -> None:
        row = record.step - 1
        if "masks" in tensors:
            recorded = tensors["masks"].double()
            steering = to_blocks(batch.scene.exclusive(record.weights), recorded)
            assert torch.equal(steering, recorded[row]), f"masks differ before step {record.step}"
        if case.mode == "tgt_dynamic":
            found = batch.scene.exclusive(mask.follow(record.weights, record.maps, batch.scene))
            assert torch.equal(to_blocks(found, recorded), recorded[record.step]), (
                f"masks after {record.step}"
            )
        if "latents" in tensors:
            note("latents", relative(record.latents, tensors["latents"][row]))
        if "noise_pred" in tensors:
            note("noise_pred", relative(record.output, tensors["noise_pred"][row]))
        if record.maps is not None:
            mean_maps.append(record.maps.flatten(2).transpose(1, 2))
            if "mask_raw" in tensors:
                note("mask_raw", relative(mean_maps[-1], tensors["mask_raw"][row]))

    run = Batch(**{**vars(batch), "schedule": driven})
    final = run.run(mask, weights, check, read_attention="mask_mean_over_steps" in tensors)
    if "mask_mean_over_steps" in tensors:
        note("mask_mean", relative(torch.stack(mean_maps).mean(0), tensors["mask_mean_over_steps"]))
    scale = float(case.settings["final_absmax"])
    note("final_sub8", relative(final[:, :, ::8, ::8], tensors["final_sub8"], scale))
    if "final" in tensors:
        note("final", relative(final, tensors["final"], scale))
    note("final_absmax", abs(float(final.abs().max()) - scale) / scale)
    print(case.id, f"timesteps {driven.largest_difference:.1e}, {driven.ties} ties,", *worst.items())
    assert all(difference <= LATENTS for difference in worst.values()), worst
