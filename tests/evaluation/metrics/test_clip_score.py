"""CLIPScore against transformers' CLIPModel with the same weights, and against torchmetrics'
number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.multimodal import CLIPScore as TorchmetricsCLIPScore
from transformers import CLIPConfig, CLIPModel

from asyndm.errors import UserError
from evaluation.metrics.clip_score import CONVENTIONS, CLIPScore
from evaluation.networks.open_clip import architecture
from evaluation.networks.weights import digest
from evaluation.quality.features import Features
from evaluation.runs.prompts import Prompt
from tests.evaluation.metrics.pictures import noise
from tests.lab import Lab

CLOSE = 2e-6
"""Largest difference of a cosine from the second computation's (2.4e-7 measured)."""
TEXTS = [
    "a red circle",
    "a dog and a cat",
    "a " + "very " * 100 + "long caption",
    "ünïcode, 3 stars!",
]
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
}
NORMAL = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights as open_clip keeps one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip")
    network = open_clip.CLIP(**CONFIG)
    save_file(network.state_dict(), path / "open_clip_model.safetensors")
    content = {"model_cfg": CONFIG, "preprocess_cfg": NORMAL}
    (path / "open_clip_config.json").write_text(json.dumps(content))
    return path


def twin(folder: Path, activation: str = "gelu") -> CLIPModel:
    """transformers' CLIPModel with the same weights."""
    text, vision = CONFIG["text_cfg"], CONFIG["vision_cfg"]
    shared: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_act": activation,
        "num_attention_heads": 2,
    }
    model = CLIPModel(
        CLIPConfig(
            text_config={
                **shared,
                "hidden_size": text["width"],
                "intermediate_size": 4 * text["width"],
                "max_position_embeddings": text["context_length"],
                "vocab_size": text["vocab_size"],
                "eos_token_id": 49407,
            },
            vision_config={
                **shared,
                "hidden_size": vision["width"],
                "intermediate_size": 4 * vision["width"],
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
            },
            projection_dim=CONFIG["embed_dim"],
        )
    )
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    converted: dict[str, Tensor] = {}
    for side, prefix in (("text_model", ""), ("vision_model", "visual.")):
        for layer in range(2):
            old, new = f"{prefix}transformer.resblocks.{layer}", f"{side}.encoder.layers.{layer}"
            for kind in ("weight", "bias"):
                parts = state[f"{old}.attn.in_proj_{kind}"].chunk(3)
                for name, part in zip("qkv", parts, strict=True):
                    converted[f"{new}.self_attn.{name}_proj.{kind}"] = part
                for a, b in {
                    "attn.out_proj": "self_attn.out_proj",
                    "ln_1": "layer_norm1",
                    "ln_2": "layer_norm2",
                    "mlp.c_fc": "mlp.fc1",
                    "mlp.c_proj": "mlp.fc2",
                }.items():
                    converted[f"{new}.{b}.{kind}"] = state[f"{old}.{a}.{kind}"]
    for kind in ("weight", "bias"):
        converted[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        converted[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        converted[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
    converted |= {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "logit_scale": state["logit_scale"],
    }
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)
    return model.eval()


def pictures() -> list[Image.Image]:
    return noise((32, 32), (64, 64), (48, 20), (32, 32))


def prompts(texts: list[str] = TEXTS) -> list[Prompt]:
    return [Prompt(f"p{i}", text) for i, text in enumerate(texts)]


def metric(folder: Path, convention: str = "compbench") -> CLIPScore:
    return CLIPScore(f"local-dir:{folder}", convention=convention, device="cpu")


def values(folder: Path, convention: str, texts: list[str] = TEXTS) -> Tensor:
    return torch.tensor(
        [s.value for s in metric(folder, convention).score(pictures(), prompts(texts))]
    )


def features(folder: Path, texts: list[str], activation: str = "gelu") -> tuple[Tensor, Tensor]:
    """Unit features by transformers, of pixels and tokens prepared by open_clip."""
    model = twin(folder, activation)
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        seen = model.get_image_features(torch.stack([preprocess(image) for image in pictures()]))
        read = model.get_text_features(tokens)
    return F.normalize(seen.pooler_output, dim=-1), F.normalize(read.pooler_output, dim=-1)


def test_the_cosine_is_that_of_transformers_clip_with_the_same_weights(folder: Path) -> None:
    seen, read = features(folder, TEXTS)
    assert (values(folder, "compbench") - (seen * read).sum(-1)).abs().max() < CLOSE


def test_the_original_convention(folder: Path) -> None:
    seen, read = features(folder, [f"A photo depicts {text}" for text in TEXTS])
    expected = 2.5 * (seen * read).sum(-1).clamp(min=0)
    assert (values(folder, "original") - expected).abs().max() < 2.5 * CLOSE


@pytest.fixture
def tagged(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, "tiny", that open_clip knows with either activation, and weights for it, by the tags
    "quick" (trained with QuickGELU) and "plain"."""
    weights = {"file": str(folder / "open_clip_model.safetensors"), **NORMAL}
    quick = {"quick": {**weights, "quick_gelu": True}}
    tags = {"tiny": {**quick, "plain": weights}, "tiny-quickgelu": quick}
    for name, more in (("tiny", {}), ("tiny-quickgelu", {"quick_gelu": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(CONFIG | more))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags[name])


@pytest.mark.usefixtures("tagged")
@pytest.mark.fault(
    what="a CLIP named without `-quickgelu`, by the tag of weights that were trained with "
    "QuickGELU (ViT-B-32, openai)",
    kind="another network than the one named",
    now="scored with the activation of the weights, and recorded by the name that says so",
)
def test_the_activation_is_the_one_that_the_weights_were_trained_with(folder: Path) -> None:
    for name, tag, activation in (
        ("tiny", "quick", "quick_gelu"),
        ("tiny-quickgelu", "quick", "quick_gelu"),
        ("tiny", "plain", "gelu"),
    ):
        one = CLIPScore(name, pretrained=tag, convention="compbench", device="cpu")
        seen, read = features(folder, TEXTS, activation)
        found = torch.tensor([score.value for score in one.score(pictures(), prompts())])
        assert (found - (seen * read).sum(-1)).abs().max() < CLOSE
        assert one.basis["model"] == ("tiny" if activation == "gelu" else "tiny-quickgelu")
    assert Features("tiny:quick").name == "tiny-quickgelu:quick"


def test_all_weights_that_open_clip_names_get_their_activation() -> None:
    quick = [
        (m, t)
        for m, t in open_clip.list_pretrained()
        if open_clip.get_pretrained_cfg(m, t).get("quick_gelu")
    ]
    assert ("ViT-B-32", "openai") in quick and ("ViT-H-14", "dfn5b") in quick
    assert all(open_clip.get_model_config(architecture(*pair)).get("quick_gelu") for pair in quick)


def test_torchmetrics_gives_the_same_under_its_convention(folder: Path) -> None:
    """With the two methods it asks of a model, and captions that it does not cut (it loses their
    end token)."""
    short = [text for text in TEXTS if len(text) < 40]
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer, model = open_clip.get_tokenizer(f"local-dir:{folder}"), twin(folder)

    class Adapter(torch.nn.Module):
        config = model.config

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return model.get_image_features(pixels).pooler_output

        def get_text_features(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            return model.get_text_features(ids).pooler_output

    def processor(text: Any = None, images: Any = None, **_: Any) -> dict[str, Tensor]:
        if images is not None:
            seen = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
            return {"pixel_values": torch.stack([preprocess(image) for image in seen])}
        ids = tokenizer(text)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    theirs = TorchmetricsCLIPScore(lambda: (Adapter(), processor))
    ours = [
        s for s, text in zip(values(folder, "torchmetrics"), TEXTS, strict=True) if text in short
    ]
    shown = [image for image, text in zip(pictures(), TEXTS, strict=True) if text in short]
    for value, image, text in zip(ours, shown, short, strict=True):
        theirs.reset()
        theirs.update(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), text)
        assert float(theirs.compute()) == pytest.approx(max(0.0, float(value)), abs=100 * CLOSE)


def test_a_long_prompt_keeps_its_end_token(folder: Path) -> None:
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    assert (tokens == 49407).any(1).all() and int(tokens[2, -1]) == 49407
    longer = [*TEXTS[:2], TEXTS[2] + " with more words that are not read", *TEXTS[3:]]
    assert torch.equal(values(folder, "compbench", longer), values(folder, "compbench"))


def test_a_score_does_not_depend_on_its_company(folder: Path) -> None:
    together = values(folder, "compbench")
    alone = [
        metric(folder).score([i], [p])[0].value for i, p in zip(pictures(), prompts(), strict=True)
    ]
    assert (together - torch.tensor(alone)).abs().max() < CLOSE


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_names_and_records_tell_conventions_apart(folder: Path, convention: str) -> None:
    one = metric(folder, convention)
    assert one.name == f"clip_{convention}" and one.basis["convention"] == convention
    assert one.basis["model"] == digest(folder)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="convention=mine: choose from authors, compbench"):
        CLIPScore("ViT-B-32", convention="mine")
    with pytest.raises(UserError, match="metric clip_original: revision=mine: open_clip has none"):
        CLIPScore("ViT-B-32", "mine")
    with pytest.raises(UserError, match="model=/nowhere: no open_clip_config.json there"):
        CLIPScore("/nowhere").check([], (64, 64))
    with pytest.raises(
        UserError, match="model=Vit: no such folder, and open_clip knows no model of that name"
    ):
        CLIPScore("Vit").check([], (64, 64))
    with pytest.raises(UserError, match="no open_clip_config.json there"):
        metric(tmp_path).check([], (64, 64))
    with pytest.raises(UserError, match="knows no weights 'mine' of the model 'ViT-B-32'"):
        CLIPScore("ViT-B-32", pretrained="mine").check([], (64, 64))
    with pytest.raises(UserError, match="are not in the local cache and cannot be fetched"):
        CLIPScore("hf-hub:nobody/no-such-model").check([], (64, 64))


def test_runs_are_scored_and_rescored_by_another_model(
    lab: Lab, folder: Path, tmp_path: Path
) -> None:
    choice = [f"metric.clip_compbench.model=local-dir:{folder}", "metric=clip_compbench"]
    assert lab(*choice).status == 0
    first = (lab.only_run() / "scores.csv").read_text()
    assert first.count("clip_compbench") == 3
    assert lab(*choice).out.count("found") == 1
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    assert (
        lab(f"metric.clip_compbench.model=local-dir:{tmp_path}", "metric=clip_compbench").status
        == 0
    )
    assert (lab.only_run() / "scores.csv").read_text() != first
