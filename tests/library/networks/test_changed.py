"""Pipelines that were changed as people change them: adapters, offload, tiling, fused projections,
compiled blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from asyndm.errors import UserError
from asyndm.networks import find_denoiser
from asyndm.records import StepRecord
from tests.library.networks.cases import measure_distance, sample_dm, sample_ours, sample_stock
from tests.pipelines.registry import PIPELINES
from tests.pipelines.shared import draw_picture

IMAGE_WIDTH = 12


def build_fresh(name: str) -> Any:
    return PIPELINES[name].build()


def assert_served(name: str, pipe: Any, limit: float = 0.0, **call: Any) -> torch.Tensor:
    """DM is the stock pipeline, asynchronous is another picture, and the pipeline stays as it
    is."""
    expected: torch.Tensor = sample_stock(name, pipe, **call)
    assert torch.isfinite(expected).all()
    assert measure_distance(sample_dm(name, pipe, **call), expected) <= limit
    made = sample_ours(name, pipe, **call)
    assert torch.isfinite(made).all() and measure_distance(made, expected) > 0.01
    assert torch.equal(sample_stock(name, pipe, **call), expected)
    return expected


def build_image_encoder() -> Any:
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=IMAGE_WIDTH,
    )
    return CLIPVisionModelWithProjection(config).eval()


def make_adapter(unet: Any, tokens: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter's weights, numbered as in published files: 1, 3, 5, ... over the layers of
    cross-attention."""
    width = unet.config.cross_attention_dim
    projection = {
        "proj.weight": torch.randn(tokens * width, IMAGE_WIDTH),
        "proj.bias": torch.zeros(tokens * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    layers = [
        unet.get_submodule(name[:-10])
        for name in unet.attn_processors
        if name.endswith("attn2.processor")
    ]
    weights = {
        f"{2 * i + 1}.to_{part}_ip.weight": torch.randn(layer.to_k.weight.shape[0], width)
        for i, layer in enumerate(layers)
        for part in "kv"
    }
    return {"image_proj": projection, "ip_adapter": weights}


@pytest.fixture(scope="module")
def adapted() -> Any:
    torch.manual_seed(0)
    pipe = build_fresh("sd")
    sides: dict[str, Any] = {
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
    }
    pipe.register_modules(
        image_encoder=build_image_encoder(), feature_extractor=CLIPImageProcessor(**sides)
    )
    pipe.load_ip_adapter(
        [make_adapter(pipe.unet)], subfolder=None, weight_name=None, image_encoder_folder=None
    )
    return pipe


def test_an_ip_adapter_with_its_picture(adapted: Any) -> None:
    call: dict[str, Any] = {"ip_adapter_image": draw_picture(28, 28)}
    expected = assert_served("sd", adapted, **call)
    assert (
        measure_distance(
            sample_stock("sd", adapted, ip_adapter_image=draw_picture(28, 28, seed=5)), expected
        )
        > 1e-3
    )
    kept: list[StepRecord] = []
    one_by_one = sample_ours("sd", adapted, batch_invariant=True, callback=kept.append, **call)
    assert measure_distance(one_by_one, sample_ours("sd", adapted, **call)) <= 1e-4
    assert kept[0].maps is not None and kept[0].maps.std() > 0


def test_an_ip_adapter_without_its_picture_is_refused_before_the_network_runs(adapted: Any) -> None:
    ran: list[Any] = []
    handle = adapted.unet.register_forward_pre_hook(lambda module, args: ran.append(args))
    try:
        with pytest.raises(UserError, match="ip_adapter_image"):
            sample_ours("sd", adapted)
    finally:
        handle.remove()
    assert not ran


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_lora(name: str) -> None:
    torch.manual_seed(0)
    pipe = build_fresh(name)
    part = "unet" if name == "sd" else "transformer"
    weights = {}
    for layer, module in find_denoiser(pipe).named_modules():
        if layer.endswith(("to_q", "to_k")):
            weights[f"{part}.{layer}.lora_A.weight"] = torch.randn(2, module.in_features)
            weights[f"{part}.{layer}.lora_B.weight"] = torch.randn(module.out_features, 2)
    before = sample_stock(name, pipe)
    pipe.load_lora_weights(weights, adapter_name="tiny")
    assert measure_distance(assert_served(name, pipe), before) > 1e-3
    kept: list[StepRecord] = []
    sample_ours(name, pipe, callback=kept.append)
    plain: list[StepRecord] = []
    sample_ours(name, build_fresh(name), callback=plain.append)
    assert kept[0].maps is not None and plain[0].maps is not None
    assert not torch.allclose(kept[0].maps, plain[0].maps, rtol=0.01)
    pipe.unload_lora_weights()
    assert torch.equal(sample_stock(name, pipe), before)


def test_a_textual_inversion() -> None:
    torch.manual_seed(0)
    pipe = build_fresh("sd")
    pipe.load_textual_inversion({"<toy>": torch.randn(2, 16)}, token="<toy>")
    prompts = ["a red <toy>", "a <toy> and a cat"]
    expected = sample_stock("sd", pipe, prompts=prompts)
    assert torch.equal(sample_dm("sd", pipe, prompts=prompts), expected)
    made = sample_ours("sd", pipe, prompts=prompts, subjects=[["<toy>"], ["<toy>", "cat"]])
    assert measure_distance(made, expected) > 0.01


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_offload_of_whole_models(name: str) -> None:
    """To the CPU from the CPU, as there is nothing else here: the hooks are accelerate's own."""
    before = sample_stock(name)
    pipe = build_fresh(name)
    pipe.enable_model_cpu_offload(device="cpu")
    assert hasattr(find_denoiser(pipe), "_hf_hook")
    assert torch.equal(assert_served(name, pipe), before)


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_offload_layer_by_layer(name: str) -> None:
    """Of the network alone: text encoders of transformers 5 fail in
    ``enable_sequential_cpu_offload`` to a CPU."""
    before = sample_stock(name)
    pipe = build_fresh(name)
    cpu_offload(find_denoiser(pipe), torch.device("cpu"), offload_buffers=True)
    assert {parameter.device.type for parameter in find_denoiser(pipe).parameters()} == {"meta"}
    assert torch.equal(assert_served(name, pipe), before)


def test_slices_and_tiles_of_the_autoencoder() -> None:
    for name in ("sd", "flux"):
        pipe = build_fresh(name)
        whole = sample_ours(name, pipe, output_type="pt")
        pipe.vae.enable_slicing()
        assert (sample_ours(name, pipe, output_type="pt") - whole).abs().max() <= 1e-5
        pipe.vae.enable_tiling()
        pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 16, 8
        expected = sample_stock(name, pipe, output_type="np")
        assert np.abs(sample_dm(name, pipe, output_type="np") - expected).max() <= 1e-6
        assert np.isfinite(sample_ours(name, pipe, output_type="np")).all()


def test_freeu() -> None:
    pipe = build_fresh("sd")
    before = sample_stock("sd", pipe)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    # Its Fourier transform acts where the shapes of Stable Diffusion's are; a tiny network passes
    # it by.
    assert_served("sd", pipe)
    pipe.disable_freeu()
    assert torch.equal(sample_stock("sd", pipe), before)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "pixart", "qwen"])
def test_fused_projections(name: str) -> None:
    pipe, plain = build_fresh(name), list[StepRecord]()
    sample_ours(name, pipe, callback=plain.append)
    find_denoiser(pipe).fuse_qkv_projections()
    assert_served(name, pipe, 1e-6 if name == "pixart" else 0.0)
    fused: list[StepRecord] = []
    sample_ours(name, pipe, callback=fused.append)
    first, second = plain[0].maps, fused[0].maps
    assert first is not None and second is not None
    assert measure_distance(second, first) <= 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sd", "sd35", "flux"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    pipe = build_fresh(name).to(dtype)
    expected = sample_stock(name, pipe, num_inference_steps=3)
    assert expected.dtype == dtype and torch.isfinite(expected).all()
    made = sample_ours(name, pipe, num_inference_steps=3)
    assert made.dtype == dtype and torch.isfinite(made).all()
    assert measure_distance(made, expected) > 0.01
    # The state is kept in float32 between the steps, where the stock solver may round it.
    assert measure_distance(sample_dm(name, pipe, num_inference_steps=3), expected) <= 0.05


def test_blocks_of_a_unet_compiled_one_by_one(name: str = "sd") -> None:
    pipe = build_fresh(name)
    kept, read = list[StepRecord](), list[StepRecord]()
    expected = sample_ours(name, pipe, callback=kept.append)
    pipe.unet.compile_repeated_blocks(backend="eager")
    made = sample_ours(name, pipe, callback=read.append)
    assert measure_distance(made, expected) <= 1e-5
    assert kept[-1].maps is not None and read[-1].maps is not None
    assert measure_distance(read[-1].maps, kept[-1].maps) <= 1e-5
    assert measure_distance(sample_dm(name, pipe), sample_stock(name, pipe)) <= 1e-6
