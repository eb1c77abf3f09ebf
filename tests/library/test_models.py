from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

import asyndm
from asyndm.errors import UserError
from asyndm.models import choose_device, choose_dtype, load
from tests.conftest import make_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A half-precision checkpoint with PNDM's config, as Stable Diffusion's are."""
    pipe = make_pipeline()
    pipe.scheduler = PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True)
    path = tmp_path_factory.mktemp("checkpoint")
    pipe.to(torch.float16).save_pretrained(path)
    return path


def test_a_half_precision_folder_is_loaded_in_single_precision_on_the_cpu(folder: Path) -> None:
    pipe = load(folder, device="cpu")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert isinstance(pipe.scheduler, DDIMScheduler) and pipe.scheduler.config.clip_sample is False
    assert pipe.scheduler.config.steps_offset == 1 and pipe.safety_checker is None
    images = asyndm.sample(pipe, "a dog", ["dog"], num_inference_steps=2)
    assert images[0].size == (32, 32)


def test_weights_must_be_safetensors(folder: Path, tmp_path: Path) -> None:
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_missing_and_wrong_folders_and_an_unreachable_hub(tmp_path: Path) -> None:
    for missing in ("./nowhere", "nowhere", tmp_path / "nowhere", "a/b/c"):
        with pytest.raises(UserError, match="there is no folder"):
            load(missing, device="cpu")
    with pytest.raises(UserError, match="has no model_index.json"):
        load(tmp_path, device="cpu")
    with pytest.raises(UserError, match="model 'nobody/no-such-model' cannot be loaded") as caught:
        load("nobody/no-such-model", device="cpu")
    assert "\n" not in str(caught.value)


def test_device_and_dtype_policy() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu) == torch.float32 and choose_dtype("auto", gpu) == torch.float16
    assert choose_dtype("bfloat16", gpu) == choose_dtype(torch.bfloat16, gpu) == torch.bfloat16
    assert choose_device("cpu") == choose_device(cpu) == cpu
    with pytest.raises(UserError, match="dtype=float16 needs a GPU"):
        choose_dtype("float16", cpu)
    with pytest.raises(UserError, match="dtype must be one of"):
        choose_dtype("int8", cpu)
    with pytest.raises(UserError, match="device must be one of"):
        choose_device("tpu")
    beyond = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(UserError, match=f"device={beyond}: this machine has"):
        choose_device(beyond)


def test_the_library_imports_lightly_and_without_the_laboratory() -> None:
    code = (
        "import sys; laboratory = ('hydra', 'omegaconf', 'wandb', 'pandas'); "
        "sys.modules.update(dict.fromkeys(laboratory)); import asyndm; print('torch' in sys.modules); "
        "[getattr(asyndm, name) for name in asyndm.__all__]"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"
