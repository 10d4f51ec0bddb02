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
FEW = ("gather_attention", "quantise")  # in INT8 and FP8, whatever else is
# In bf16 for every GPU under one Triton and for one of a kind under the others; what else is tried, for some.
VERSIONS = {"oldest": "fp32", "middle": "fp16", "newest": "fp32"}
OF_A_KIND = ("8.0", "9.0", "10.0", "12.0", "gfx942", "gfx1100")
SOME = ("8.0", "9.0", "gfx942")
CHOICE = {"score", "budget", "bins"}  # for every GPU under one Triton, for two under the others: they take long
EVERYWHERE = {path.parent.name for path in (ROOT / "kernels").glob("*/triton_kernel.py")} - CHOICE - {"quantise"}
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
    targets = ALL if version == "middle" else OF_A_KIND
    everywhere = ["--precisions", "16 bit", "--kernels", *sorted(EVERYWHERE), "--dtypes"]
    for arguments in (
        [*everywhere, "bf16", "--targets", *sorted(targets)],
        [*everywhere, VERSIONS[version], "--targets", *SOME],
        ["--kernels", *sorted(CHOICE), "--dtypes", "bf16", "fp32", *CHOICE_TARGETS[version]],
    ):
        result, made = compiled(version, tmp_path, *arguments)
        bad = [row for row in made if not row["ok"]]
        assert result.returncode == 0 and not bad, f"{bad[:3]}\n{result.stderr[-2000:]}"
        rows += made
    assert all(
        {row["target"] for row in rows if row["kernel"] == kernel} == set(targets) for kernel in ("gather_attention", "assign")
    )
    assert {row["target"] for row in made} == (ALL if version == "middle" else {"8.0", "9.0"})
    kernels = {row["kernel"] for row in rows if row["target"] == "9.0"}
    loops = {"gather_attention", "assign", "exact_rows", "score"}
    without = {"centroids", "pad_centroids", "pad_clusters", "threshold", "keep", "bins"}
    without |= {"tile_mass", "select", "pack_lists"} if VERSIONS[version] == "fp32" else set()
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


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_in_few_bits_is_ok(version, tmp_path):
    """Where the table has them: multiplied as what they are, a tile on its way, nothing spilled."""
    asked = ["--kernels", *FEW, "--precisions", "int8", "8 bit", "--dtypes", "bf16"]
    result, rows = compiled(version, tmp_path, *asked)
    bad = [row for row in rows if not row["ok"]]
    assert result.returncode == 0 and not bad, f"{bad[:3]}\n{result.stderr[-2000:]}"
    lists = [row for row in rows if row["kernel"] == "gather_attention"]
    assert all("QUANTISED" in row["variant"] for row in lists)
    fp8 = {"8.9", "9.0", "10.0"} | ({"12.0"} if version != "oldest" else set())  # the oldest has no FP8 product there
    assert {row["target"] for row in lists} == NVIDIA | {"gfx942"}
    assert {row["target"] for row in lists if row["config"].endswith("float8_e4m3fn")} == fp8
    products = {(row["target"], product) for row in lists for product in row["products"]}
    of_sm90 = {("9.0", "IGMMA"), ("9.0", "QGMMA")}
    assert of_sm90 | {("8.0", "IMMA"), ("8.6", "IMMA"), ("8.9", "IMMA"), ("8.9", "QMMA"), ("12.0", "IMMA")} <= products
    assert all(row["prefetch"] >= 1 for row in lists if row["target"] in NVIDIA)
    assert {row["kernel"] for row in rows} == {"gather_attention", "quantise", "quantise_values"}
    _compare_with_committed(rows)


def test_products_of_another_kind_fail():
    """A kernel in 16 bit where INT8 is asked for, and one with INT8 alone where FP8 is too: nothing else is wrong with them."""
    pytest.importorskip("triton")
    script = "import json, sys; sys.path.insert(0, sys.argv[1]); import compile_kernels as c; from dataclasses import replace\n"
    script += """
target = next(target for target in c.TARGETS if target.arch == "8.9")
cases = {case.precision: case for case in c.CASES if case.op == "gather_attention"}
for asked, is_, config in (
    ("int8", "16 bit", "128x32w4s5t16d64"), ("8 bit", "int8", "128x32w8s5-float16"), ("int8", "int8", "128x32w8s5-float16")
):
    variant = {"TAIL": 0, "KEYS": True, "RESUME": False, "WITH_LSE": False, "QUANTISED": is_ != "16 bit"}
    row = c.row_of((replace(cases[is_], precision=asked), target, 64, "bf16", config, variant))
    print(json.dumps([row["ok"], row["spill_bytes"], row["prefetch"], row["products"]]))
"""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script, SCRIPT.parent], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == [[False, 0, 1, ["HMMA"]], [False, 0, 1, ["HMMA", "IMMA"]], [True, 0, 1, ["HMMA", "IMMA"]]]


@pytest.mark.parametrize("version", ["middle", "newest"])
def test_a_loop_that_waits_for_each_copy_fails(version, tmp_path):
    result, rows = compiled(
        version, tmp_path, "--kernels", "gather_attention", "--targets", "8.0", "9.0", "--dtypes", "bf16",
        "--configs", "128x32w8s3t16d128a", "--precisions", "16 bit", "int8",
    )  # fmt: skip
    lists = [row for row in rows if "KEYS" in row["variant"]]
    assert {"QUANTISED" in row["variant"] for row in lists} == {False, True}
    assert result.returncode == 1 and len(lists) == 16 and all(row["prefetch"] == 0 and not row["ok"] for row in lists)
