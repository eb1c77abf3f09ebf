from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from transformers import PixtralImageProcessor, PixtralProcessor

import asyndm
from asyndm.attention import Reading
from asyndm.errors import UserError
from asyndm.inputs import find_picture_size
from asyndm.models import choose_device, choose_dtype, load, read_parts
from asyndm.networks import find_denoiser, find_family
from asyndm.subjects import as_subject
from tests.conftest import make_pipeline
from tests.library.changes import change_json
from tests.library.single_file import save_single_file
from tests.pipelines.registry import PIPELINES
from tests.pipelines.shared import PROMPT, Tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A half-precision checkpoint with PNDM's config, as Stable Diffusion's are."""
    pipe = make_pipeline()
    pipe.scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    )
    path = tmp_path_factory.mktemp("checkpoint")
    pipe.to(torch.float16).save_pretrained(path)
    return path


def test_a_half_precision_folder_is_loaded_in_single_precision_on_the_cpu(folder: Path) -> None:
    pipe = load(folder, device="cpu")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert isinstance(pipe.scheduler, PNDMScheduler) and pipe.scheduler.config.steps_offset == 1
    assert pipe.safety_checker is None
    images = asyndm.sample(pipe, "a dog", ["dog"], num_inference_steps=2)
    assert images[0].size == (32, 32)


LOADED = (
    *(
        "sdxl",
        "sd3",
        "sd35",
        "sd3_clips",
        "flux",
        "flux_schnell",
        "pixart_dpm",
        "sana_dpm",
        "qwen",
        "flux2",
    ),
    *("flux2_klein", "chroma", "auraflow", "cogview4", "lumina2", "zimage", "hunyuandit"),
)


def find_positions(pipe: Any, tiny: Tiny) -> list[list[int]]:
    """Where words of the prompt stand; and its attention can be read."""
    family, reading = find_family(pipe), Reading(None, None, "joint", "both")
    family.attention(find_denoiser(pipe), [[[]]], reading)
    return family.positions(
        pipe, PROMPT, [as_subject("red dog"), as_subject("rabbit")], reading, tiny.arguments
    )


@pytest.mark.parametrize("name", LOADED)
def test_a_saved_pipeline_comes_back_and_is_known_without_its_weights(
    name: str, tmp_path: Path
) -> None:
    tiny = PIPELINES[name]
    pipe = tiny.build()
    pipe.save_pretrained(tmp_path)
    again = load(tmp_path, dtype="float32", device="cpu")
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(pipe) and type(again.scheduler) is type(pipe.scheduler)
    (wanted,), (made,) = tiny.run(pipe, output_type="np"), tiny.run(again, output_type="np")
    assert np.abs(made - wanted).max() < 1e-4
    parts = read_parts(tmp_path)
    assert all(weight.is_meta for weight in find_denoiser(parts).parameters())
    assert find_picture_size(parts) == find_picture_size(pipe)
    assert find_positions(parts, tiny) == find_positions(pipe, tiny)


def test_a_tokenizer_within_a_processor_is_read(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    tiny = PIPELINES["flux2"]
    pipe = tiny.build()
    processor = PixtralProcessor(PixtralImageProcessor(), pipe.tokenizer, 14)
    processor.chat_template = pipe.tokenizer.chat_template
    pipe.register_modules(tokenizer=processor)  # as FLUX.2 [dev] is published
    pipe.save_pretrained(tmp_path)
    assert find_positions(read_parts(tmp_path), tiny) == find_positions(pipe, tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_class_name": "StableVideoDiffusionPipeline"},
            "is a StableVideoDiffusionPipeline, which asyndm does",
        ),
        ({"_class_name": ["pipeline", "Mine"]}, "which asyndm does not serve"),
        (
            {"unet": ["mine", "UNet2DConditionModel"]},
            "names mine.UNet2DConditionModel as its unet: only classes of",
        ),
        ({"tokenizer": ["os", "system"]}, "names os.system as its tokenizer"),
    ],
)
def test_an_index_that_is_not_served_or_not_to_be_trusted_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **change}))
    read: Callable[[], Any]
    for read in (lambda: load(tmp_path, device="cpu"), lambda: read_parts(tmp_path)):
        with pytest.raises(UserError, match=message):
            read()


@pytest.fixture(scope="module")
def single_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in one file, in the layout of its authors."""
    path: Path = tmp_path_factory.mktemp("file") / "model.safetensors"
    save_single_file(load(folder, device="cpu"), path)
    return path


def test_a_single_file_is_the_same_model(folder: Path, single_file: Path) -> None:
    wanted, made = load(folder, device="cpu"), load(single_file, config=folder, device="cpu")
    assert (
        type(made) is StableDiffusionPipeline and made.scheduler.config == wanted.scheduler.config
    )
    for part in ("unet", "vae", "text_encoder"):
        weights, same = getattr(wanted, part).state_dict(), getattr(made, part).state_dict()
        assert weights.keys() == same.keys()
        assert all(torch.equal(weights[key], same[key]) for key in weights)
    parts = read_parts(single_file, config=folder)
    assert find_picture_size(parts) == find_picture_size(made)


def test_a_single_file_that_cannot_be_read_is_told(
    folder: Path, single_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"code")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    cases: list[tuple[Path, Path | str | None, str]] = [
        (single_file, None, "model 'stable-diffusion-v1-5/stable-diffusion-v1-5' cannot be loaded"),
        (
            single_file,
            tmp_path,
            "has no model_index.json.*config=FOLDER says where its configs are",
        ),
        (single_file, "nobody/no-such-model", "model 'nobody/no-such-model' cannot be loaded"),
        (
            tmp_path / "model.ckpt",
            folder,
            "only .safetensors files are read, as others can hold code",
        ),
        (tmp_path / "broken.safetensors", None, "broken.safetensors' cannot be loaded"),
        (tmp_path / "absent.safetensors", folder, "there is no file"),
    ]
    for path, config, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            load(path, config=config, device="cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="broken.safetensors' cannot be loaded"):
        load(tmp_path / "broken.safetensors", config=folder, device="cpu")
    with pytest.raises(UserError, match="only .safetensors files are read"):
        read_parts(tmp_path / "model.ckpt", config=folder)


def test_a_variant_must_be_asked_for_and_be_there(folder: Path, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path, variant="fp16")
    assert load(tmp_path, device="cpu", variant="fp16").unet.dtype == torch.float32
    with pytest.raises(UserError, match="has weights of variant fp16 only: give variant='fp16'"):
        load(tmp_path, device="cpu")
    with pytest.raises(UserError, match="has weights only of fp16: variant='bf16' is not there"):
        load(tmp_path, device="cpu", variant="bf16")
    with pytest.raises(UserError, match="has weights of no variant: variant='fp16' is not there"):
        load(folder, device="cpu", variant="fp16")


def test_settings_that_save_memory(folder: Path) -> None:
    for offload in ("model", "sequential"):
        with pytest.raises(
            UserError, match=f"offload={offload} moves weights between a GPU and the CPU"
        ):
            load(folder, device="cpu", offload=offload)
    with pytest.raises(
        UserError, match="offload must be one of none, model, sequential, got 'disk'"
    ):
        load(folder, device="cpu", offload="disk")
    pipe = load(folder, device="cpu", vae_slicing=True, vae_tiling=True)
    assert pipe.vae.use_slicing and pipe.vae.use_tiling


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


@pytest.fixture
def hub(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cached copy of someone/model on the hub."""
    cache = tmp_path / "models--someone--model"
    copy = Path(shutil.copytree(whole, cache / "snapshots" / "abc"))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return copy


def test_a_copy_of_the_hub_is_read_as_a_folder_is(whole: Path, hub: Path) -> None:
    made = load("someone/model", device="cpu")
    assert torch.equal(made.unet.conv_in.bias, load(whole, device="cpu").unet.conv_in.bias)
    assert read_parts("someone/model").unet.config.sample_size == 16


def test_the_configs_of_a_single_file_are_checked_on_the_hub_too(
    whole: Path, hub: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_single_file(load(whole, device="cpu"), file)
    made = load(file, config="someone/model", device="cpu")
    assert torch.equal(made.unet.conv_in.bias, load(whole, device="cpu").unet.conv_in.bias)
    change_json(
        hub / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.X", None]}
    )
    for read in (load, read_parts):
        with pytest.raises(
            UserError, match="names code of its own in tokenizer/tokenizer_config.json"
        ):
            read(file, config="someone/model")


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
        "sys.modules.update(dict.fromkeys(laboratory)); import asyndm; print('torch' in "
        "sys.modules); [getattr(asyndm, name) for name in asyndm.__all__]"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "False"
