"""LoRA weights: those that fit a pipeline are added, and none is left out without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import asyndm
from asyndm.errors import UserError
from asyndm.loras import add_lora
from asyndm.models import load
from tests.conftest import make_pipeline

Weights = dict[str, torch.Tensor]
QUERY, ENCODER = ("to_q",), ("q_proj", "k_proj", "v_proj", "out_proj")


def test_lora_weights_are_added(whole: Path, tmp_path: Path) -> None:
    pipe = make_pipeline()
    torch.manual_seed(1)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.unet))
    (file,) = tmp_path.glob("*.safetensors")

    def drawn(**settings: Any) -> Any:
        made = load(whole, device="cpu", **settings)
        images = asyndm.sample(made, "a dog", ["dog"], num_inference_steps=2, output_type="np")
        return images[0]

    plain, from_folder, from_file = drawn(), drawn(lora=tmp_path), drawn(lora=str(file))
    assert np.array_equal(from_folder, from_file) and np.abs(plain - from_folder).max() > 1e-3


def make_factors(network: Any, prefix: str, ends: tuple[str, ...]) -> Weights:
    """LoRA weights of the layers with these names, as peft writes them."""
    layers = {name: each for name, each in network.named_modules() if name.endswith(ends)}
    return {
        f"{prefix}{name}.lora_{factor}.weight": torch.ones(
            (2, each.in_features) if factor == "A" else (each.out_features, 2)
        )
        for name, each in layers.items()
        for factor in "AB"
    }


def to_kohya(weights: Weights) -> Weights:
    """The same weights in the notation of kohya's scripts."""
    renamed = {}
    for name, weight in weights.items():
        layer, factor = name.removesuffix(".weight").split(".lora_")
        layer = layer.replace("unet.", "lora_unet_").replace("text_encoder.", "lora_te_text_model_")
        layer = layer.replace(".", "_")
        renamed[f"{layer}.lora_{'down' if factor == 'A' else 'up'}.weight"] = weight
        renamed[f"{layer}.alpha"] = torch.tensor(1.0)
    return renamed


def test_lora_weights_in_every_notation_are_added_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = make_pipeline()
    unet, encoder = (
        make_factors(pipe.unet, "unet.", QUERY),
        make_factors(pipe.text_encoder, "text_encoder.", ENCODER),
    )
    older = {
        name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): each
        for name, each in unet.items()
    }
    for weights in (unet, {**unet, **encoder}, to_kohya({**unet, **encoder}), older):
        save_file(weights, tmp_path / "lora.safetensors")
        pipe = make_pipeline()
        add_lora(pipe, tmp_path)
        assert pipe.get_list_adapters().keys() >= {"unet"}
    assert not caplog.records and "No LoRA keys" not in capfd.readouterr().err


def make_misfit(name: str) -> Weights:
    pipe = make_pipeline()
    good = make_factors(pipe.unet, "unet.", QUERY)
    beyond = {
        key.replace("down_blocks.1", "down_blocks.7"): each.clone() for key, each in good.items()
    }
    cases: dict[str, Weights] = {
        "another prefix": make_factors(pipe.unet, "transformer.", QUERY),
        "no prefix": make_factors(pipe.unet, "", QUERY),
        "an encoder that is not there": {
            **good,
            **make_factors(pipe.text_encoder, "text_encoder_2.", ENCODER),
        },
        "a block that is not there": {**good, **beyond},
        "that block as kohya has it": to_kohya({**good, **beyond}),
        "a layer of the encoder that is not there": {
            **good,
            "text_encoder.encoder.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(2, 16),
            "text_encoder.encoder.layers.7.self_attn.q_proj.lora_B.weight": torch.ones(16, 2),
        },
        "half": {key: each for key, each in good.items() if "lora_A" in key},
        "half of a layer": dict(list(good.items())[:-1]),
        "half as kohya has it": {
            key: each for key, each in to_kohya(good).items() if "lora_down" not in key
        },
        "a DoRA": {**to_kohya(good), "lora_unet_x.dora_scale": torch.ones(2)},
        "no LoRA": {"a.b": torch.ones(2)},
    }
    return cases[name]


@pytest.mark.fault(
    what="a LoRA of another model, of which diffusers leaves out what does not fit",
    kind="weights that are not used",
    now="refused, with the names of the weights that belong nowhere",
)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "another prefix",
            r"(\d+) of its \1 weights belong nowhere in this StableDiffusionPipeline \(transformer",
        ),
        (
            "no prefix",
            r"(\d+) of its \1 weights belong nowhere in this StableDiffusionPipeline \(down_blocks",
        ),
        ("an encoder that is not there", r"belong nowhere .* \(text_encoder_2\."),
        ("a block that is not there", r"belong nowhere .* \(unet.down_blocks\.7\."),
        ("that block as kohya has it", r"belong nowhere .* \(unet.down_blocks\.7\."),
        (
            "a layer of the encoder that is not there",
            r"2 of its \d+ weights belong nowhere .*layers\.7",
        ),
        (
            "half",
            r"has only one of the two factors of unet.*lora_A.weight.* and \d+ more; "
            "get a whole copy",
        ),
        (
            "half of a layer",
            r"has only one of the two factors of unet.*lora_A.weight; get a whole copy",
        ),
        ("half as kohya has it", r"has only one of the two factors of lora_unet_"),
        ("a DoRA", r"is a DoRA, whose scales \(lora_unet_x.dora_scale\) diffusers leaves out"),
        ("no LoRA", "cannot be loaded"),
    ],
)
def test_lora_weights_that_do_not_fit_are_refused(name: str, message: str, tmp_path: Path) -> None:
    save_file(make_misfit(name), tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        add_lora(make_pipeline(), tmp_path / "lora.safetensors")
    assert "\n" not in str(caught.value)


def test_lora_weights_that_cannot_be_added_are_told(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "lora.bin").write_bytes(b"code")
    (tmp_path / "two").mkdir()
    for name in ("a", "b", "broken"):
        (tmp_path / "two" / f"{name}.safetensors").write_bytes(b"no tensors")
    for lora, message in (
        (tmp_path / "lora.bin", "only .safetensors files are read"),
        (tmp_path, "cannot be loaded: there is no .safetensors file in that folder"),
        (tmp_path / "two", "has 3 .safetensors files: give one of them"),
        (tmp_path / "two" / "broken.safetensors", "cannot be loaded"),
        ("nobody/no-such-lora", "lora 'nobody/no-such-lora' cannot be loaded"),
        (
            str(tmp_path / "nowhere"),
            "there is no such file; give a .safetensors file, its folder, or ORG/NAME",
        ),
        ("loras/absent.safetensors", "there is no such file; give a .safetensors file"),
        ("/dev/null", "there is no such file"),
    ):
        pipe: Any = make_pipeline() if lora == "nobody/no-such-lora" else None
        with pytest.raises(UserError, match=message) as caught:
            add_lora(pipe, lora)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="only .safetensors files are read"):
        load(whole, device="cpu", lora=tmp_path / "lora.bin")
