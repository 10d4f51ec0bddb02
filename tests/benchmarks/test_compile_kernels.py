"""Every kernel compiles for every GPU, under the oldest Triton that is supported and the newest there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "compile_kernels.py"
VERSIONS = {"oldest": ("bf16", "fp32"), "newest": ("bf16", "fp16", "fp32")}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_ok(version, tmp_path):
    folder = ROOT / ".venv" / f"triton-{version}"
    if not folder.is_dir():
        pytest.skip(f"no {version} Triton in .venv: ./test.sh installs it")
    file = tmp_path / "rows.json"
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"PYTHONPATH": str(folder), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, SCRIPT, "--json", file, "--dtypes", *VERSIONS[version]]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    rows = json.loads(file.read_text()) if file.exists() else []
    bad = [row for row in rows if not row["ok"]]
    assert result.returncode == 0 and not bad, f"{bad[:3]}\n{result.stderr[-2000:]}"
    targets = {row["target"] for row in rows}
    assert targets == {"8.0", "8.6", "8.9", "9.0", "10.0", "12.0", "gfx942", "gfx1100"}
    kernels = {row["kernel"] for row in rows if row["target"] == "9.0"}
    assert kernels == {"gather_attention", "assign", "centroids", "sample_rows", "tile_mass", "select", "pack_lists"}
    matrix = {row["matrix_op"] for row in rows if row["kernel"] == "gather_attention" and row["dtype"] != "fp32"}
    assert matrix == {"mma", "wgmma", "tcgen05", "mfma", "wmma"}
