"""FID and KID against numpy's and scipy's from the same features, and the rows that the command
leaves."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor

from asyndm.errors import UserError
from asyndm.shapes.world import prompts as shapes_prompts
from evaluation.quality.command import Comparison, PictureSet, draw_renders, main
from evaluation.quality.features import SUBSETS, Features, _to_tensor, fid, kid
from evaluation.runs.folder import QUALITY_FILE, SCORES_FILE
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import QualityRow
from tests.evaluation.metrics.pictures import draw_noise
from tests.lab import Lab

CLOSE_FID, CLOSE_KID, CLOSE_FEATURES = 1e-10, 1e-12, 1e-6
"""Largest relative differences from the second computations' (3e-12, 7e-14 and 1.2e-7 measured)."""
CLOSE_SINGULAR = 1e-5
"""The same of FID where pictures are fewer than dimensions and no root is exact (4e-7 measured)."""

Array = npt.NDArray[np.float64]


def draw_true_pictures(count: int, seed: int = 0) -> list[Image.Image]:
    return draw_renders([spec.text for spec in shapes_prompts("test", "two")[:count]], seed)


def spoil(images: list[Image.Image], share: float) -> list[Image.Image]:
    """Each picture mixed with noise."""
    grain = draw_noise(*[(64, 64)] * len(images))
    return [Image.blend(image, other, share) for image, other in zip(images, grain, strict=True)]


def save_pictures(folder: Path, images: list[Image.Image]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        image.save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def features(clip: Path) -> tuple[Tensor, Tensor]:
    """Of 30 true pictures and of 24 others, spoiled."""
    network = Features(str(clip))
    return network.of(draw_true_pictures(30)), network.of(spoil(draw_true_pictures(24, 1), 0.3))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ten spoiled pictures, one of them in a folder below, and twelve true ones."""
    path = tmp_path_factory.mktemp("sets")
    save_pictures(path / "worse", spoil(draw_true_pictures(9, 1), 0.3))
    save_pictures(path / "worse" / "below", spoil(draw_true_pictures(1, 2), 0.3))
    return path / "worse", save_pictures(path / "true", draw_true_pictures(12))


def read_quality(folder: Path) -> list[QualityRow]:
    return read_rows(folder / QUALITY_FILE, QualityRow)


def second_fid(known: Array, seen: Array) -> float:
    product_root = sqrtm(np.cov(known.T) @ np.cov(seen.T))
    apart = known.mean(0) - seen.mean(0)
    return float(
        apart @ apart
        + np.trace(np.cov(known.T))
        + np.trace(np.cov(seen.T))
        - 2 * product_root.real.trace()
    )


def second_kid(known: Array, seen: Array) -> float:
    """Pair by pair."""

    def mean(a: Array, b: Array, same: bool) -> float:
        pairs = product(range(len(a)), range(len(b)))
        return float(
            np.mean(
                [(float(a[i] @ b[j]) / a.shape[1] + 1) ** 3 for i, j in pairs if not same or i != j]
            )
        )

    return mean(known, known, True) + mean(seen, seen, True) - 2 * mean(known, seen, False)


def test_fid_is_the_distance_of_two_gaussians(features: tuple[Tensor, Tensor]) -> None:
    known, seen = features
    expected = second_fid(known.numpy(), seen.numpy())
    assert expected > 0.01 and fid(known, seen) == pytest.approx(expected, rel=CLOSE_FID)


def test_fid_of_few_pictures_is_near(features: tuple[Tensor, Tensor]) -> None:
    known, seen = features[0][:6], features[1][:5]
    assert fid(known, seen) == pytest.approx(
        second_fid(known.numpy(), seen.numpy()), rel=CLOSE_SINGULAR
    )


def test_kid_is_the_unbiased_kernel_distance(features: tuple[Tensor, Tensor]) -> None:
    known, seen = features[0][:24], features[1]
    value, deviation = kid(known, seen, 24, seed=0)
    assert value == pytest.approx(second_kid(known.numpy(), seen.numpy()), rel=CLOSE_KID)
    assert deviation < 1e-12


def test_kids_subsets_are_drawn_by_the_seed_and_by_nothing_else(
    features: tuple[Tensor, Tensor],
) -> None:
    known, seen = features
    torch.manual_seed(5)
    first, state = kid(known, seen, 6, seed=1), torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())
    assert kid(known, seen, 6, seed=1) == first != kid(known, seen, 6, seed=2) and first[1] > 0
    generator = torch.Generator().manual_seed(1)
    drawn = []
    for _ in range(SUBSETS):
        a, b = (torch.randperm(len(x), generator=generator)[:6] for x in (known, seen))
        drawn.append(second_kid(known[a].numpy(), seen[b].numpy()))
    assert first == pytest.approx((np.mean(drawn), np.std(drawn)), rel=CLOSE_KID * 100)


def test_equal_sets_are_no_distance_apart_and_worse_ones_are_further(clip: Path) -> None:
    network = Features(str(clip))
    known = network.of(draw_true_pictures(20))
    sets = [network.of(spoil(draw_true_pictures(20), share)) for share in (0.0, 0.25, 0.5)]
    distances, kernels = (
        [fid(known, seen) for seen in sets],
        [kid(known, seen, 20, 0)[0] for seen in sets],
    )
    assert abs(distances[0]) < 1e-6 * distances[1]
    assert distances == sorted(distances) and kernels == sorted(kernels)


def test_features_are_clips_own_before_they_are_scaled(clip: Path) -> None:
    network, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    images = draw_noise((32, 32), (64, 48), (20, 32))
    found = Features(str(clip)).of(images)
    assert found.dtype == torch.float64 and found.shape == (3, 8)
    for image, row in zip(images, found, strict=True):
        with torch.no_grad():
            expected = network.eval().visual(prepare(image)[None])[0].double()
        assert (row - expected).abs().max() < CLOSE_FEATURES * expected.abs().max()


def test_pictures_of_several_sizes_keep_their_order_where_the_network_takes_any() -> None:
    images, network = draw_noise((8, 8), (8, 8), (4, 6), (8, 8)), Features("shapes")
    network.__dict__["loaded"] = (_to_tensor, lambda batch: batch.double().mean((2, 3)))
    assert torch.allclose(
        network.of(images),
        torch.tensor(np.array([np.asarray(i, float).mean((0, 1)) for i in images])),
    )


def test_a_network_without_numbers_is_refused(clip: Path) -> None:
    network = Features(str(clip))
    network.__dict__["loaded"] = (_to_tensor, lambda batch: batch.double().mean((2, 3)) / 0 * 0)
    with pytest.raises(UserError, match="gives no numbers"):
        network.of(draw_noise((8, 8)))


def test_the_embedded_clip_sees_worse_pictures() -> None:
    network = Features("shapes")
    known = network.of(draw_true_pictures(16))
    better, worse = (network.of(spoil(draw_true_pictures(16, 1), share)) for share in (0.0, 0.4))
    assert network.name.startswith("shapes@")
    assert fid(known, better) < fid(known, worse)
    assert kid(known, better, 16, 0) < kid(known, worse, 16, 0)


def test_rows_are_added_and_skipped(
    clip: Path, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    worse, true = folders
    (worse / SCORES_FILE).write_text("untouched")
    arguments = [str(worse), "--reference", str(true), "--features", str(clip), "--batch-size", "4"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "10 pictures against 12 of true@" in said.out and "2 new" in said.out and not said.err
    first, second = read_quality(worse)
    assert (first.metric, first.deviation, first.subset_size, first.seed) == (
        "fid",
        None,
        None,
        None,
    )
    assert (second.metric, second.subset_size, second.seed) == ("kid", 5, 0) and second.deviation
    assert first.run_id == "worse" and (first.images, first.reference_images) == (10, 12)
    network = Features(str(clip))
    pair = [
        network.of([Image.open(f) for f in PictureSet.below(folder).files])
        for folder in (true, worse)
    ]
    assert first.value == pytest.approx(second_fid(pair[0].numpy(), pair[1].numpy()), rel=1e-4)

    tampered = (worse / QUALITY_FILE).read_text().replace(repr(first.value), "7.5")
    (worse / QUALITY_FILE).write_text(tampered)
    assert (
        main(arguments) == 0 and "fid 7.5000" in (out := capsys.readouterr().out) and "0 new" in out
    )
    assert (worse / QUALITY_FILE).read_text() == tampered
    assert main([*arguments, "--subset-size", "10", "--seed", "3"]) == 0
    assert "fid 7.5000" in (out := capsys.readouterr().out) and "1 new" in out
    assert (worse / QUALITY_FILE).read_text().startswith(tampered)
    row = read_quality(worse)[2]
    assert row.subset_size == 10
    assert row.value == pytest.approx(kid(pair[0], pair[1], 10, 3)[0], rel=1e-4)
    assert (worse / SCORES_FILE).read_text() == "untouched"


def test_other_pictures_of_the_same_number_are_measured_anew(
    clip: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    mine, true = save_pictures(tmp_path / "mine", draw_true_pictures(9, 1)), folders[1]
    arguments = [str(mine), "--reference", str(true), "--features", str(clip)]
    assert main(arguments) == 0
    save_pictures(mine, spoil(draw_true_pictures(9, 1), 0.5))
    assert main(arguments) == 0
    assert [row.metric for row in read_quality(mine)] == ["fid", "kid"] * 2
    assert len({row.value for row in read_quality(mine)}) == 4


def test_a_broken_picture_is_named_and_not_counted(
    clip: Path,
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine, true = save_pictures(tmp_path / "mine", draw_true_pictures(10, 1)), folders[1]
    (mine / "004.png").write_bytes((mine / "004.png").read_bytes()[:40])
    arguments = [str(mine), "--reference", str(true), "--features", str(clip)]
    assert main(arguments) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith(f"warning: {mine / '004.png'}: not a readable picture (")
        and read_quality(mine)[0].images == 9
    )
    assert main(arguments) == 0 and "0 new" in capsys.readouterr().out


def test_few_pictures_for_the_dimensions_are_told(
    clip: Path,
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = save_pictures(tmp_path / "mine", draw_true_pictures(7, 1))
    assert main([str(mine), "--reference", str(folders[1]), "--features", str(clip)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f"warning: {mine}: fid of 7 pictures against 12 in 8 dimensions is ill-conditioned" in line
    )


def test_runs_are_compared_with_true_renders_of_their_own_prompts(
    lab: Lab, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab("-m", "mask=none,global", "prompt_set=shapes", "limit=8").status == 0
    arguments = [str(lab.runs), "--reference", "shapes", "--features", str(clip), "--seed", "4"]
    assert main(arguments) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and all("8 pictures against 8 of shapes by" in line for line in out)
    for path in lab.runs.rglob(QUALITY_FILE):
        run, (first, second) = PictureSet.of(path.parent), read_quality(path.parent)
        assert (
            first.reference == "shapes"
            and first.seed == second.seed == 4
            and second.subset_size == 4
        )
        assert run.texts is not None and len(set(run.texts)) == 8
        assert path.parent.name.endswith(first.run_id)
        network = Features(str(clip))
        known = network.of(draw_renders(run.texts, 4))
        assert second.value == pytest.approx(
            kid(known, network.of([*map(Image.open, run.files)]), 4, 4)[0], rel=1e-4
        )
    other = save_pictures(tmp_path / "other", draw_noise(*[(64, 64)] * 9))
    assert main([str(other), "--reference", str(lab.runs), "--features", str(clip)]) == 0
    assert read_quality(other)[0].reference_images == 16


def test_the_next_run_is_compared_although_one_is_refused(
    lab: Lab, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab()
    lab("prompt_set=shapes", "limit=4", "seed=7")
    capsys.readouterr()
    assert main([str(lab.runs), "--reference", "shapes", "--features", str(clip)]) == 1
    said = capsys.readouterr()
    assert (
        "is not a prompt of the shapes world; give --reference FOLDER" in said.err
        and "4 pictures" in said.out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{mine}/none", "--reference", "{mine}"], "none: no such folder"),
        (["{mine}", "--reference", "{mine}/none"], "--reference {mine}/none: no such folder"),
        (["{empty}", "--reference", "{mine}"], "empty: no pictures there"),
        (["{mine}", "--reference", "{empty}"], "--reference {empty}: no pictures there"),
        (["{one}", "--reference", "{mine}"], "one: 1 readable pictures; at least 2 are needed"),
        (["{mine}", "--reference", "{one}"], "one: 1 readable pictures; at least 2 are needed"),
        (
            ["{mine}", "--reference", "{mine}", "--subset-size", "4"],
            "--subset-size 4: larger than the smaller set (3 pictures, 3 of the reference)",
        ),
        (
            ["{mine}", "--reference", "{mine}", "--subset-size", "1"],
            "--subset-size 1: must be at least 2",
        ),
        (
            ["{mine}", "--reference", "{mine}", "--batch-size", "0"],
            "--batch-size 0: must be at least 1",
        ),
        (
            ["{mine}", "--reference", "shapes"],
            "mine: --reference shapes needs a run, with its prompts",
        ),
        (
            ["{mine}", "--reference", "{mine}", "--features", "clip"],
            "--features clip: no such folder; name a",
        ),
        (
            ["{mine}", "--reference", "{mine}", "--features", "{empty}"],
            "--features {empty}: model={empty}: no open_clip_config.json there",
        ),
        (
            ["{mine}", "--reference", "{mine}", "--features", "ViT-B-32:mine"],
            "--features ViT-B-32:mine: open_clip knows no weights 'mine' of the model 'ViT-B-32'",
        ),
    ],
)
def test_bad_input_is_one_line(
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    places = {name: tmp_path / name for name in ("mine", "one", "empty")}
    for name, count in (("mine", 3), ("one", 1), ("empty", 0)):
        save_pictures(places[name], draw_noise(*[(8, 8)] * count))
    chosen = [argument.format(**places) for argument in arguments]
    assert main(chosen if "--features" in chosen else [*chosen, "--features", str(clip)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message.format(**places) in line
    assert not list(tmp_path.rglob(QUALITY_FILE))


def test_help_tells_what_a_batch_is_of(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--batch-size N pictures whose features are computed at once" in shown


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_inception_needs_torch_fidelity() -> None:
    with pytest.raises(
        UserError,
        match=r"--features inception: needs torch-fidelity \(pip install --group inception, in",
    ):
        Features("inception")


def test_the_renders_depend_on_the_seed_only(clip: Path) -> None:
    texts = [spec.text for spec in shapes_prompts("test", "one")[:3]]
    first, again, other = draw_renders(texts, 0), draw_renders(texts, 0), draw_renders(texts, 1)
    assert first == again and first[0] != other[0] and first[0].size == (64, 64)
    assert Comparison(Features(str(clip)), None).seed == 0
