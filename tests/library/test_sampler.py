from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPConfig, CLIPImageProcessor

import asyndm
from asyndm import (
    DynamicMask,
    ExternalMask,
    GlobalMask,
    Mask,
    NoMask,
    Quadratic,
    StaticMask,
    StepRecord,
    Subject,
    ThingsMask,
)
from asyndm.networks.unet import UNet
from asyndm.scheduler import AsynchronousScheduler
from asyndm.shapes.model import SD_SCHEDULER
from tests.conftest import make_pipeline

STOCK = 2e-6
"""DM against the stock pipeline with noise: largest difference over the largest latent (1.4e-6
measured)."""
COMPANY = 1e-5
"""An image alone against the same evaluated together with others, likewise (8e-7 measured)."""
METHODS: list[Mask] = [NoMask(), GlobalMask(), DynamicMask(), StaticMask(), ExternalMask(np.eye(9))]
PROMPTS = ["a red dog", "a rabbit and a cat, a dog", "a cat"]
SUBJECTS = [["red dog"], ["rabbit", Subject("cat", 0.9), "dog"], ["cat"]]

by_name = pytest.mark.parametrize("mask", METHODS, ids=lambda mask: mask.name)


def sample_latents(
    pipe: Any, prompt: Any = PROMPTS, subjects: Any = SUBJECTS, **settings: Any
) -> torch.Tensor:
    settings = {
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "seed": 3,
        "output_type": "latent",
        **settings,
    }
    result: torch.Tensor = asyndm.sample(pipe, prompt, subjects, **settings)
    return result


def measure_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize(
    "scheduler", [{}, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}]
)
def test_dm_is_the_stock_pipeline(
    pipe: StableDiffusionPipeline,
    steps: int,
    eta: float,
    guidance: float,
    scheduler: dict[str, Any],
) -> None:
    own = StableDiffusionPipeline(
        **{**pipe.components, "scheduler": DDIMScheduler(**SD_SCHEDULER, **scheduler)},
        requires_safety_checker=False,
    )
    own.set_progress_bar_config(disable=True)
    prompts, seeds = PROMPTS[:2], [8, 2]
    stock = own(
        prompts,
        negative_prompt=["a cat", "a cat"],
        num_inference_steps=steps,
        guidance_scale=guidance,
        eta=eta,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="latent",
    ).images
    ours = sample_latents(
        own,
        prompts,
        None,
        mask=NoMask(),
        num_inference_steps=steps,
        guidance_scale=guidance,
        eta=eta,
        seed=seeds,
        negative_prompt="a cat",
        batch_invariant=False,
    )
    assert measure_distance(ours, stock) <= (STOCK if eta else 0.0)


@pytest.mark.parametrize("negative", [None, "a cat"])
def test_pictures_are_the_stock_pipelines(
    pipe: StableDiffusionPipeline, negative: str | None
) -> None:
    generator = torch.Generator().manual_seed(4)
    settings: dict[str, Any] = {
        "num_inference_steps": 5,
        "guidance_scale": 3.0,
        "negative_prompt": negative,
    }
    stock = pipe("a red dog", generator=generator, eta=1.0, **settings).images[0]
    ours = asyndm.sample(pipe, "a red dog", mask=NoMask(), seed=4, eta=1.0, **settings)[0]
    assert isinstance(ours, Image.Image) and ours.size == (32, 32)
    assert np.abs(np.asarray(ours, int) - np.asarray(stock, int)).max() <= 1


def test_a_picture_the_safety_checker_flags_is_black_as_in_the_stock_pipeline() -> None:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(
            text_config=sizes,
            vision_config={**sizes, "image_size": 8, "patch_size": 4},
            projection_dim=8,
        )
    ).eval()
    pipe = make_pipeline()
    pipe.safety_checker, pipe.feature_extractor = checker, CLIPImageProcessor(size=8, crop_size=8)
    settings: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}
    for threshold in (2.0, -2.0):  # of a cosine: never exceeded, always
        checker.concept_embeds_weights.fill_(threshold)
        stock = pipe(
            "a red dog", generator=torch.Generator().manual_seed(4), eta=1.0, **settings
        ).images[0]
        ours = asyndm.sample(pipe, "a red dog", mask=NoMask(), seed=4, **settings)[0]
        assert (np.asarray(stock).max() == 0) == (threshold < 0)
        assert np.abs(np.asarray(ours, int) - np.asarray(stock, int)).max() <= 1


def test_a_textual_inversion_of_two_vectors_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = make_pipeline()
    pipe.load_textual_inversion(
        {"<toy>": torch.randn(2, 16, generator=torch.Generator().manual_seed(0))}
    )
    prompts = ["a <toy> and a dog", "a dog"]
    stock = pipe(
        prompts,
        negative_prompt=["<toy>"] * 2,
        num_inference_steps=2,
        eta=1.0,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(3) for _ in prompts],
        output_type="latent",
    ).images
    settings: dict[str, Any] = {"num_inference_steps": 2, "negative_prompt": "<toy>"}
    assert (
        measure_distance(
            sample_latents(pipe, prompts, None, mask=NoMask(), seed=[3, 3], **settings), stock
        )
        < COMPANY
    )

    read: list[Any] = []
    attention = UNet.attention

    def watched(self: UNet, network: Any, tokens: Any, reading: Any) -> Any:
        read.append(tokens)
        return attention(self, network, tokens, reading)

    monkeypatch.setattr(UNet, "attention", watched)
    sample_latents(pipe, prompts, [["<toy>", "dog"], ["dog"]], batch_invariant=False, **settings)
    ids = pipe.tokenizer(pipe.maybe_convert_prompt(prompts[0], pipe.tokenizer))["input_ids"]
    words = [
        [pipe.tokenizer.convert_ids_to_tokens(ids[i]) for i in positions]
        for positions in read[-1][0]
    ]
    assert words == [["<toy>", "<toy>_1"], ["dog</w>"]]


def test_output_types(pipe: StableDiffusionPipeline) -> None:
    made = {
        kind: asyndm.sample(pipe, PROMPTS, mask=NoMask(), num_inference_steps=2, output_type=kind)
        for kind in ("pil", "pt", "np", "latent")
    }
    assert [image.size for image in made["pil"]] == [(32, 32)] * 3
    assert made["pt"].shape == (3, 3, 32, 32) and made["np"].shape == (3, 32, 32, 3)
    assert made["latent"].shape == (3, 4, 16, 16) and made["latent"].dtype == torch.float32
    assert np.abs(np.asarray(made["pil"][1]) / 255 - made["np"][1]).max() < 0.01


def check_company(pipe: StableDiffusionPipeline, mask: Mask, guidance: float, copies: int) -> None:
    """Images are the same to the bit in any batch; within rounding together (torch takes other
    convolutions for 16 rows and more)."""
    settings = {"mask": mask, "guidance_scale": guidance, "num_inference_steps": 2}
    prompts, subjects = PROMPTS * copies, SUBJECTS * copies
    seeds = list(range(len(prompts)))
    many = sample_latents(pipe, prompts, subjects, seed=seeds, **settings)
    backwards = sample_latents(pipe, prompts[::-1], subjects[::-1], seed=seeds[::-1], **settings)
    alone = [
        sample_latents(pipe, prompts[i], subjects[i], seed=seeds[i], **settings)[0]
        for i in range(3)
    ]
    together = sample_latents(
        pipe, prompts, subjects, seed=seeds, batch_invariant=False, **settings
    )
    assert torch.equal(backwards.flip(0), many)
    assert torch.equal(torch.stack(alone), many[:3])
    assert measure_distance(together, many) < COMPANY


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@by_name
def test_an_image_depends_on_neither_batch_size_nor_order(
    pipe: StableDiffusionPipeline, mask: Mask, guidance: float
) -> None:
    check_company(pipe, mask, guidance, copies=3)


def test_nor_does_it_where_two_threads_compute(pipe: StableDiffusionPipeline) -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check_company(pipe, DynamicMask(), 4.0, copies=1)
    finally:
        torch.set_num_threads(usual)


def test_a_single_seed_counts_over_the_images_of_one_prompt(pipe: StableDiffusionPipeline) -> None:
    prompts = ["a dog", "a cat", "a dog"]
    counted = sample_latents(pipe, prompts, None, mask=NoMask(), seed=10)
    assert torch.equal(
        counted, sample_latents(pipe, prompts, None, mask=NoMask(), seed=[10, 10, 11])
    )
    assert torch.equal(
        counted, sample_latents(pipe, prompts, None, mask=NoMask(), seed=np.int64(10))
    )
    assert torch.equal(
        counted, sample_latents(pipe, prompts, None, mask=NoMask(), seed=np.array([10, 10, 11]))
    )
    assert not torch.allclose(counted[0], counted[2])


@by_name
def test_methods_differ_from_dm_exactly_as_they_should(
    pipe: StableDiffusionPipeline, mask: Mask
) -> None:
    dm = sample_latents(pipe, mask=NoMask())
    assert torch.equal(sample_latents(pipe, mask=mask), sample_latents(pipe, mask=mask))
    flat = sample_latents(pipe, [PROMPTS[0]], [["dog"]], mask=mask, curve=Quadratic(0.0))
    assert torch.equal(flat, dm[:1])
    assert (measure_distance(sample_latents(pipe, mask=mask), dm) > 0.01) == (mask.name != "none")


@pytest.mark.parametrize("size", [(32, 64), (48, 24), (8, 16)])
@by_name
def test_any_size_the_network_takes(
    pipe: StableDiffusionPipeline, mask: Mask, size: tuple[int, int]
) -> None:
    result = sample_latents(pipe, height=size[0], width=size[1], mask=mask)
    assert result.shape == (3, 4, size[0] // 2, size[1] // 2) and torch.isfinite(result).all()


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_guidance_up_to_one_is_none_as_in_the_stock_pipeline(
    pipe: StableDiffusionPipeline, guidance: float
) -> None:
    stock = pipe(
        "a red dog",
        num_inference_steps=4,
        guidance_scale=guidance,
        eta=0.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    ours = sample_latents(pipe, "a red dog", None, mask=NoMask(), guidance_scale=guidance, eta=0.0)
    assert torch.equal(ours, stock)


def test_guidance_one_is_one_forward_of_one_copy(pipe: StableDiffusionPipeline) -> None:
    batches: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    try:
        sample_latents(pipe, guidance_scale=1.0)
        sample_latents(pipe, guidance_scale=2.0)
        sample_latents(pipe, guidance_scale=2.0, mask=StaticMask(), batch_invariant=False)
    finally:
        handle.remove()
    assert batches == [1] * 12 + [2] * 12 + [6] * 8


def test_an_external_mask_puts_its_own_pixels_on_the_curve(pipe: StableDiffusionPipeline) -> None:
    grey = torch.zeros(16, 16)
    grey[:, 8:] = 1.0
    grey[:, :2] = 0.5
    records: list[StepRecord] = []
    sample_latents(
        pipe, "a dog", None, mask=ExternalMask(grey), curve=Quadratic(0.6), callback=records.append
    )
    t = records[1].timesteps[0, 0]
    assert torch.equal(records[1].weights[0, 0, 0], grey[0].double())
    line, curve = 501.0, 501 + 0.6 * 1000 / 16 * 2 * 2
    assert t[4] == pytest.approx(line) and t[12] == pytest.approx(curve)
    assert t[0] == pytest.approx((line + curve) / 2)


def test_one_subject_keeps_its_own_concavity(pipe: StableDiffusionPipeline) -> None:
    records: list[StepRecord] = []
    sample_latents(
        pipe, "a dog", [Subject("dog", 0.25)], mask=GlobalMask(), callback=records.append
    )
    u, expected = torch.tensor(4.0), []
    for remaining in range(4, 0, -1):
        u = Quadratic(0.25).advance(u, remaining, 4)
        expected.append(1 + 250 * float(u))
    assert [float(record.timesteps.max()) for record in records] == pytest.approx(expected)


class HostReads(TorchDispatchMode):
    """Collects operations that make the host wait for a device, while switched on."""

    WAITING = ("_local_scalar_dense", "nonzero", "unique", "is_nonzero", "equal.", "masked_select")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on = False
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.on and any(word in str(func) for word in self.WAITING):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("mask", "rehearsed"),
    [*((mask, 4 * mask.rehearses) for mask in METHODS), (ThingsMask(rehearsal_steps=2), 2)],
    ids=[*(mask.name for mask in METHODS), "things"],
)
def test_a_step_waits_for_the_device_once_to_count_its_timesteps(
    pipe: StableDiffusionPipeline, mask: Mask, rehearsed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one step to the next, of every call of the pipeline, the rehearsal of a mask among
    them."""
    steps, loops = 0, 0
    step, begin = AsynchronousScheduler.step, AsynchronousScheduler.begin
    with HostReads() as reads:

        def watched_begin(self: AsynchronousScheduler, *args: Any) -> None:
            nonlocal loops
            begin(self, *args)
            loops, reads.on = loops + 1, True

        def watched(self: AsynchronousScheduler, *args: Any, **settings: Any) -> Any:
            nonlocal steps
            steps += 1
            try:
                result = step(self, *args, **settings)
            except Exception:  # the end of a rehearsal of some steps
                reads.on = False
                raise
            reads.on = self.remaining > 0
            return result

        monkeypatch.setattr(AsynchronousScheduler, "begin", watched_begin)
        monkeypatch.setattr(AsynchronousScheduler, "step", watched)
        sample_latents(pipe, mask=mask, batch_invariant=False)
        assert (loops, steps) == (1 + (rehearsed > 0), 4 + rehearsed)
        assert [name for name in reads.seen if "unique" not in name] == []
        assert len(reads.seen) == steps
        reads.on = True
        torch.ones(()).item()
        assert len(reads.seen) == steps + 1


def test_a_pndm_config_does_not_clip_the_latents() -> None:
    pipe = make_pipeline()
    expected = sample_latents(pipe)
    noise_levels = {key: SD_SCHEDULER[key] for key in SD_SCHEDULER if key != "clip_sample"}
    pipe.scheduler = PNDMScheduler(**noise_levels, skip_prk_steps=True)
    assert "clip_sample" not in pipe.scheduler.config
    assert torch.equal(sample_latents(pipe), expected)
