"""A checkpoint that was sent by a stranger, or that is not whole: nothing of it runs, and no weight
is made up."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, MultiControlNetModel, StableDiffusionControlNetPipeline
from transformers import CLIPTextModelWithProjection

from asyndm.checkpoints import INDEX, JSON_BYTES
from asyndm.errors import UserError
from asyndm.models import load, read_parts
from tests.conftest import make_pipeline
from tests.library.changes import Weights, change_json, change_weights
from tests.library.single_file import save_single_file

ENCODER, UNET = "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


@pytest.fixture
def evil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Code in every place of a checkpoint from which some loader takes it; returned is what it
    does."""
    mark = folder.parent / "MARK"
    code = f"open({str(mark)!r}, 'w').write('run')\nclass X:\n    pass\n"
    (folder / "mdl").mkdir()
    (folder / "mdl" / "__init__.py").write_text("")
    for place in (
        "mdl/evil",
        "evil",
        "pipeline",
        "my_pipeline",
        "unet/evil",
        "unet/diffusers",
        "tokenizer/evil",
    ):
        (folder / f"{place}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    return code


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"unet": ["mdl.evil", "X"]},
        r"names mdl.evil.X as its unet: only classes of diffusers and transformers",
    ),
    ({"scheduler": ["evil", "X"]}, r"names evil.X as its scheduler"),
    ({"extra": ["evil", "X"]}, r"names evil.X as its extra"),
    (
        {"unet": [["mdl.evil", "X"]]},
        r"names \[\['mdl.evil', 'X'\]\] as its unet: that is no library and",
    ),
    ({"unet": ["diffusers", ["evil", "X"]]}, "that is no library and one of its classes"),
    ({"unet": ["evil", "X", "Y"]}, "that is no library and one of its classes"),
    ({"unet": {"evil": "X"}}, "that is no library and one of its classes"),
    ({"unet": ["diffusers", "utils"]}, "cannot be loaded"),
    ({"_class_name": ["my_pipeline", "X"]}, "which asyndm does not serve"),
    ({"_class_name": {"my_pipeline": "X"}}, "which asyndm does not serve"),
    ({"_class_name": "X"}, "which asyndm does not serve"),
]


@pytest.mark.fault(
    what="a checkpoint whose `model_index.json` names a module that lies beside it",
    kind="names in data that are imported",
    now="refused in one line; no code of a checkpoint runs",
)
@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_no_class_is_imported_that_an_index_names(
    changes: dict[str, Any], message: str, folder: Path, evil: str
) -> None:
    change_json(folder / "model_index.json", **changes)
    for read in (load, read_parts) if "loaded" not in message else (load,):
        with pytest.raises(UserError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
    assert not (folder.parent / "MARK").exists()


@pytest.mark.fault(
    what="a checkpoint whose `model_index.json` or configs are not what they should be: a list, "
    "null, too deep",
    kind="strangers' JSON",
    now="refused in one line, with the file",
)
@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (INDEX, "[1]", "its model_index.json names no class of pipeline"),
        (INDEX, '"x"', "its model_index.json names no class of pipeline"),
        (INDEX, "null", "its model_index.json names no class of pipeline"),
        (INDEX, "{", r"model_index.json is no such JSON as it should be \(Expecting property"),
        (
            INDEX,
            "[" * 100_000,
            r"model_index.json is no such JSON as it should be \(nested too deeply\)",
        ),
        (
            "unet/config.json",
            "[" * 100_000,
            r"unet/config.json is no such JSON .* \(nested too deeply\)",
        ),
        (
            "tokenizer/tokenizer_config.json",
            "x",
            r"tokenizer_config.json is no such JSON as it should be",
        ),
    ],
)
def test_json_that_is_none_is_refused(file: str, text: str, message: str, folder: Path) -> None:
    (folder / file).write_text(text)
    for read in (load, read_parts):
        with pytest.raises(UserError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_json_without_end_is_refused(folder: Path) -> None:
    with (folder / INDEX).open("r+b") as file:
        file.truncate(JSON_BYTES + 1)
    with pytest.raises(
        UserError, match=r"model_index.json is no such JSON .* \(larger than 64 MB\)"
    ):
        read_parts(folder)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (None, "names None as its unet: that is no library and one of its classes"),
        ("mdl.evil.X", "names mdl.evil.X as its unet: that is no library and one of its classes"),
        (7, "names 7 as its unet: that is no library and one of its classes"),
        (
            [None, None],
            "has no unet: model_index.json names none, and without it nothing can be sampled",
        ),
        (["e\nvil", "X"], "names e vil.X as its unet: only classes of"),
    ],
)
def test_a_denoiser_that_is_none_is_refused(named: object, message: str, folder: Path) -> None:
    change_json(folder / INDEX, unet=named)
    for read in (load, read_parts):
        with pytest.raises(UserError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.fault(
    what="a pipe or a device in the place of a file of a checkpoint",
    kind="files that never end",
    now="refused in one line, with the file",
)
@pytest.mark.parametrize(
    "place", ["unet/config.json", "foo/aconfig.json", UNET, "pipe", "a/b/config.json"]
)
@pytest.mark.parametrize("read", [load, read_parts])
def test_a_pipe_in_a_checkpoint_is_not_waited_for(
    read: Callable[..., Any], place: str, folder: Path
) -> None:
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).unlink(missing_ok=True)
    os.mkfifo(folder / place)
    with pytest.raises(UserError, match=f"{place} is no file but a pipe or a device; remove it"):
        read(folder)


def test_an_index_that_is_a_pipe_is_none(folder: Path) -> None:
    (folder / INDEX).unlink()
    os.mkfifo(folder / INDEX)
    with pytest.raises(UserError, match="has no model_index.json"):
        load(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"_class_name": "StableDiffusionPipeline", "unet": ["mdl.evil", "X"]},
            "names mdl.evil.X as its unet",
        ),
        (
            {"_class_name": ["pipeline", "X"]},
            "in prior/model_index.json: that is no pipeline of diffusers",
        ),
        ([], "in prior/model_index.json: that is no pipeline of diffusers"),
    ],
)
def test_a_pipeline_within_is_checked_as_well(
    index: object, message: str, folder: Path, evil: str
) -> None:
    (folder / "prior").mkdir()
    (folder / "prior" / INDEX).write_text(json.dumps(index))
    change_json(folder / INDEX, prior=["diffusers", "DiffusionPipeline"])
    for read in (load, read_parts):
        with pytest.raises(UserError, match=message):
            read(folder)
    assert not (folder.parent / "MARK").exists()


def test_code_beside_the_weights_stays_unread(folder: Path, evil: str) -> None:
    assert load(folder, device="cpu").unet.config.sample_size == 16
    assert not (folder.parent / "MARK").exists()


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_a_part_with_code_of_its_own_is_refused(part: str, folder: Path, evil: str) -> None:
    config = "tokenizer_config.json" if part == "tokenizer" else "config.json"
    names = {"AutoTokenizer": ["evil.X", None], "AutoModel": "evil.X", "AutoConfig": "evil.X"}
    change_json(folder / part / config, auto_map=names, model_type="evil")
    kind = "AutoTokenizer" if part == "tokenizer" else "AutoModel"
    change_json(folder / "model_index.json", **{part: ["transformers", kind]})
    for read in (load, read_parts):
        with pytest.raises(
            UserError, match=rf"names code of its own in {part}/{config} \(auto_map\)"
        ):
            read(folder)
    assert not (folder.parent / "MARK").exists()


def test_pickles_are_left_closed(folder: Path, evil: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (evil,)

    (folder / UNET).unlink()
    (folder / UNET).with_suffix(".bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder, device="cpu")
    assert not (folder.parent / "MARK").exists()


@pytest.mark.fault(
    what="a text encoder that lacks weights, or has them under names that the installed version "
    "does not know",
    kind="random numbers in the place of weights",
    now="refused, with the part and the names of its weights",
)
@pytest.mark.parametrize(
    ("file", "key"),
    [
        (ENCODER, "final_layer_norm.weight"),
        (ENCODER, "embeddings.token_embedding.weight"),
        (UNET, "conv_in.bias"),
        ("vae/diffusion_pytorch_model.safetensors", "post_quant_conv.weight"),
    ],
)
def test_a_network_that_lacks_a_weight_is_refused(file: str, key: str, folder: Path) -> None:
    def lose(weights: Weights) -> None:
        (found,) = [name for name in weights if name.endswith(key)]
        weights.pop(found)

    change_weights(folder / file, lose)
    part = file.partition("/")[0]
    with pytest.raises(
        UserError, match=f"{part} has no weights for .*{re.escape(key)} of its .*: get a whole"
    ):
        load(folder, device="cpu")


def test_names_of_another_version_are_told_in_one_line(folder: Path) -> None:
    def rename(weights: Weights) -> None:
        for name in list(weights):
            weights[f"other.{name}"] = weights.pop(name)

    change_weights(folder / ENCODER, rename)
    with pytest.raises(
        UserError, match=r"text_encoder has no weights for .* and \d+ more of its CLIP"
    ) as caught:
        load(folder, device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("file", [ENCODER, UNET])
def test_a_network_with_a_weight_too_many_is_refused(file: str, folder: Path) -> None:
    change_weights(folder / file, lambda weights: weights.update({"extra.weight": torch.zeros(2)}))
    with pytest.raises(
        UserError, match=r"has weights that its .* does not: extra.weight; .*/config.json is"
    ):
        load(folder, device="cpu")


def test_a_config_of_fewer_layers_than_the_weights_is_refused(folder: Path) -> None:
    change_json(folder / "text_encoder" / "config.json", num_hidden_layers=1)
    with pytest.raises(
        UserError, match=r"text_encoder has weights that its CLIPTextModel does not: .*layers\.1\."
    ):
        load(folder, device="cpu")


def test_differences_that_change_nothing_are_let_through(whole: Path, folder: Path) -> None:
    wanted = load(whole, device="cpu")
    larger = CLIPTextModelWithProjection(wanted.text_encoder.config)
    (larger.text_model if hasattr(larger, "text_model") else larger).load_state_dict(
        wanted.text_encoder.state_dict(), strict=False
    )
    larger.save_pretrained(folder / "text_encoder")  # has a head as well
    # as older versions saved
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    change_weights(folder / ENCODER, lambda weights: weights.update(positions))
    made = load(folder, device="cpu").text_encoder
    assert type(made) is type(wanted.text_encoder)
    same = wanted.text_encoder.state_dict()
    assert all(torch.equal(weight, same[key]) for key, weight in made.state_dict().items())


def test_a_second_controlnet_is_loaded_and_checked(tmp_path: Path) -> None:
    parts = {**make_pipeline().components, "requires_safety_checker": False}
    nets = [
        ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 8))
        for _ in range(2)
    ]
    torch.nn.init.ones_(nets[1].conv_in.bias)
    StableDiffusionControlNetPipeline(
        **parts, controlnet=MultiControlNetModel(nets)
    ).save_pretrained(tmp_path)
    made = load(tmp_path, device="cpu").controlnet.nets
    assert (
        len(made) == 2 and made[1].conv_in.bias.eq(1).all() and not made[0].conv_in.bias.eq(1).all()
    )
    second = tmp_path / "controlnet_1" / "diffusion_pytorch_model.safetensors"
    change_weights(second, lambda weights: weights.pop("conv_in.bias"))
    with pytest.raises(
        UserError, match="controlnet_1 has no weights for conv_in.bias of its ControlNetModel"
    ):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "model.diffusion_model.input_blocks.0.0.bias",
            "lacks weights of its model: get a whole copy",
        ),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            "there are no weights for .*final_layer_norm.bias of text_encoder; get a whole copy",
        ),
    ],
)
def test_a_single_file_that_lacks_a_weight_is_refused(
    key: str, message: str, whole: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_single_file(load(whole, device="cpu"), file)
    change_weights(file, lambda weights: weights.pop(key))
    with pytest.raises(UserError, match=message):
        load(file, config=whole, device="cpu")
