"""Every kernel compiles for every GPU, under the oldest Triton that is supported, the newest, and one between.

Their loops must copy ahead of what they compute, and their matrix instructions may not wait for each other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "compile_kernels.py"
COMMITTED = ROOT / "benchmarks" / "results" / "compiled.jsonl"
VERSIONS = {"oldest": ("bf16", "fp32"), "middle": ("bf16", "fp16"), "newest": ("bf16", "fp32")}
CHOICE = {"score", "budget", "bins"}  # for every GPU under one Triton, for two under the others: they take long
EVERYWHERE = {path.parent.name for path in (ROOT / "kernels").glob("*/triton_kernel.py")} - CHOICE
CHOICE_TARGETS = {"oldest": ("--targets", "8.0", "9.0"), "middle": (), "newest": ("--targets", "8.0", "9.0")}
NVIDIA = {"8.0", "8.6", "8.9", "9.0", "10.0", "12.0"}
ALL = NVIDIA | {"gfx942", "gfx1100"}


def read(file: Path) -> list[dict]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def compiled(version: str, folder: Path, *arguments) -> tuple[subprocess.CompletedProcess, list[dict]]:
    """The script's run under a Triton of test.sh's, and its rows."""
    triton = ROOT / ".venv" / f"triton-{version}"
    if not triton.is_dir():
        pytest.skip(f"no {version} Triton in .venv: ./test.sh installs it")
    file = folder / "rows.jsonl"
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"PYTHONPATH": str(triton), "TRITON_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, SCRIPT, "--json", file, *arguments]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    return result, read(file) if file.exists() else []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_ok(version, tmp_path):
    rows = []
    for arguments in (
        ["--kernels", *sorted(EVERYWHERE), "--dtypes", *VERSIONS[version]],
        ["--kernels", *sorted(CHOICE), "--dtypes", "bf16", "fp32", *CHOICE_TARGETS[version]],
    ):
        result, made = compiled(version, tmp_path, *arguments)
        bad = [row for row in made if not row["ok"]]
        assert result.returncode == 0 and not bad, f"{bad[:3]}\n{result.stderr[-2000:]}"
        rows += made
    assert all({row["target"] for row in rows if row["kernel"] == kernel} == ALL for kernel in ("gather_attention", "assign"))
    assert {row["target"] for row in made} == (ALL if version == "middle" else {"8.0", "9.0"})
    kernels = {row["kernel"] for row in rows if row["target"] == "9.0"}
    loops = {"gather_attention", "assign", "exact_rows", "score"}
    without = {"centroids", "pad_centroids", "pad_clusters", "threshold", "keep", "bins"}
    without |= {"tile_mass", "select", "pack_lists"} if "fp32" in VERSIONS[version] else set()
    assert loops | without == kernels
    matrix = {row["matrix_op"] for row in rows if row["kernel"] == "gather_attention" and row["dtype"] != "fp32"}
    assert matrix == {"mma", "wgmma", "tcgen05", "mfma", "wmma"}
    in_16_bit = [row for row in rows if row["target"] in NVIDIA and row["kernel"] in loops and row["dtype"] != "fp32"]
    assert len(in_16_bit) > 60 and all(row["prefetch"] >= 1 for row in in_16_bit)
    serialised = {row["target"] for row in in_16_bit if row["serialised"]}
    assert serialised == ({"9.0"} if version == "oldest" else set())
    _compare_with_committed(rows)


def _compare_with_committed(rows: list[dict]) -> None:
    """The instructions that predictions are made from are this code's, where the same Triton compiled them."""
    names = ("triton", "kernel", "target", "dtype", "head_dim", "variant", "config")
    known = {tuple(row[name] for name in names): row for row in read(COMMITTED)}
    for row in rows:
        found = known.get(tuple(row[name] for name in names))
        assert found in (None, row), f"{COMMITTED} is of older kernels: make it anew, see docs/performance.md"


@pytest.mark.parametrize("version", ["middle", "newest"])
def test_a_loop_that_waits_for_each_copy_fails(version, tmp_path):
    result, rows = compiled(
        version, tmp_path, "--kernels", "gather_attention", "--targets", "8.0", "9.0", "--dtypes", "bf16",
        "--configs", "128x32w8s3t16d128a",
    )  # fmt: skip
    lists = [row for row in rows if "KEYS" in row["variant"]]
    assert result.returncode == 1 and len(lists) == 8 and all(row["prefetch"] == 0 and not row["ok"] for row in lists)
