"""How tests/parity/data was made from a complete folder: python -m tests.parity.select_subset
COMPLETE_FOLDER

Kept, in the same format: all of curves.json; of every mode, curve, number of subjects and η at
least one 5-step case, with the full final latents of one; a 10-step case without noise whose
timesteps meet ties; the second network's case with its latents and attention maps of every step;
the noise of the first 5 steps.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

CASES = (
    "tgt_bin_N5_k0_eta0_thr0",
    "tgt_bin_N5_k2_eta1_thr1",
    "tgt_lin_N5_k1_eta1_thr1",
    "tgt_lin_N10_k1_eta0_thr1",
    "tgt_exp_N5_k2_eta0_thr0",
    "base_N5_eta1",
    "static_exp_N5_eta1",
    "base2_lin_N5_eta0",
    "base2_exp_N5_eta1",
    "sd21_tgt_bin_N5_eta1",
)
FINALS = ("tgt_bin_N5_k2_eta1_thr1",)
STEPS = 5


def select(source: Path, target: Path) -> None:
    """Write the subset of one folder to another."""
    target.mkdir(parents=True, exist_ok=True)
    about = json.loads((source / "cases.json").read_text())
    about["cases"] = [case for case in about["cases"] if case["id"] in CASES]
    missing = set(CASES) - {case["id"] for case in about["cases"]}
    if missing:
        raise SystemExit(f"{source} has no case {', '.join(sorted(missing))}")
    (target / "cases.json").write_text(json.dumps(about, indent=1) + "\n")
    curves = json.loads((source / "curves.json").read_text())
    (target / "curves.json").write_text(json.dumps(curves, separators=(",", ":")) + "\n")
    for network in {case["unet"] for case in about["cases"]}:
        shutil.copyfile(source / f"{network}.safetensors", target / f"{network}.safetensors")

    inputs = load_file(source / "inputs.safetensors")
    inputs["step_noise"] = inputs["step_noise"][:STEPS].clone()
    save_file(inputs, target / "inputs.safetensors")
    for name, wanted in (("cases", CASES), ("finals", FINALS), ("per_step", CASES)):
        tensors = load_file(source / f"{name}.safetensors")
        kept = {
            key: t
            for key, t in tensors.items()
            if key.rsplit(".", 1)[0] in wanted and "noise_pred" not in key
        }
        save_file(kept, target / f"{name}.safetensors")


if __name__ == "__main__":
    select(Path(sys.argv[1]), Path(__file__).parent / "data")
