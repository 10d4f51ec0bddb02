"""Whole denoising steps in a real ComfyUI: the times of every case, where they go, and models of the real sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from host_env import find_hosts, host_version, prepare_host
from tiny_checkpoints import parts

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "steps.py"
CASES = [("dense", 1.0), ("svg2", 0.25), ("svg2", 0.15), ("svg", 0.3), ("svg2", 0.3)]
# As the makers' own checkpoints have them.
PARAMETERS = {"wan14b_720p": 14_288_491_584, "wan1.3b_480p": 1_418_996_800, "hunyuan_720p": 12_821_012_544}
COUNT = f"""
import json, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import pack, steps
from shapes import SHAPES
names = sys.argv[1:]
steps.start_host("cpu")
print(json.dumps({{name: sum(x.numel() for x in steps.tensors_of(SHAPES[name]).values()) for name in names}}))
"""
BROKEN = f"""
import json, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import pack, steps
from dataclasses import replace
from shapes import SHAPES
from types import SimpleNamespace
from unittest.mock import patch
steps.start_host("cpu")
from sparse_videogen.svg_core import attention

def missing():
    shape = replace(SHAPES["cpu_2k"], model="hunyuan", head_dim=128, layers=3)
    rows = list(steps.rows_of(shape, SimpleNamespace(device="cpu", end=float("inf"), precision="16 bit")))
    return json.dumps([row for row in rows if "missing" in row])

steps.CASES = steps.CASES[:2]
works = missing()
with patch.object(attention, "gather_attention", side_effect=RuntimeError("no kernel")):
    print(works, missing(), sep="\\n")
"""
HOSTS = sorted(find_hosts(), key=lambda path: parts(host_version(path)))


@pytest.fixture
def in_host(run):
    """Runs the interpreter of the newest ComfyUI, which what it runs then finds, and returns its lines."""
    if not HOSTS:
        pytest.skip("no ComfyUI found: set COMFYUI_PATH")

    def in_host(*command) -> list[str]:
        done = run(prepare_host(HOSTS[-1]), *command, COMFYUI_PATH=str(HOSTS[-1]))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    return in_host


def test_every_case_has_times_and_parts(in_host, tmp_path):
    file = tmp_path / "rows.jsonl"
    in_host(SCRIPT, "--device", "cpu", "--shapes", "cpu_2k", "cogvideox15", "--json", file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    missing, *more = (row for row in rows if "missing" in row)
    assert not more and missing["shape"] == "cogvideox15" and "not cogvideox" in missing["missing"]
    steps, shares = ([row for row in rows if row["op"] == op and "missing" not in row] for op in ("steps", "step parts"))
    assert [(row["provider"], round(row["density"], 2)) for row in steps] == CASES
    dense, *sparse = steps
    for row in steps:
        # Prompt and negative prompt go together, and what is sparse is a part of the step.
        assert row["batch"] == 2 and 0 <= row.get("s_attention", 0) < row["s_step"]
        of_step = [part for part in shares if (part["provider"], part["density"]) == (row["provider"], row["density"])]
        assert sum(part["share"] for part in of_step) == pytest.approx(1) and all(part["launches"] > 0 for part in of_step)
    for row in sparse:
        assert row["s_attention"] > 0 and row["speedup"] == pytest.approx(dense["s_step"] / row["s_step"])
        assert row["end_to_end"] == pytest.approx(dense["s_step"] / (0.2 * row["s_dense_step"] + 0.8 * row["s_step"]))


def test_what_did_not_run_sparse_has_no_times(in_host):
    """A HunyuanVideo, with its text among the tokens: first as it is, then with an executor that fails."""
    works, fails = map(json.loads, in_host("-c", BROKEN)[-2:])
    assert not works and [row["provider"] for row in fails] == ["svg2"]
    assert "All 12 calls dense" in fails[0]["missing"] and "RuntimeError: no kernel" in fails[0]["missing"]


def test_the_models_are_of_the_real_sizes(in_host):
    assert json.loads(in_host("-c", COUNT, *PARAMETERS)[-1]) == PARAMETERS


def test_without_a_host_it_says_what_to_do(run, tmp_path):
    done = run(sys.executable, SCRIPT, "--device", "cpu", COMFYUI_PATH="", HOME=str(tmp_path))
    assert done.returncode and "set COMFYUI_PATH" in done.stderr
