"""The calls that run unattended on a GPU, rehearsed on a CPU: every step runs, in time, and none stops another."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from host_env import find_hosts, prepare_host

pytest.importorskip("triton")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "run_gpu.sh"
MOST_SECONDS = 540
MOST_FILES, MOST_BYTES = 8, 16 << 20
OPS = {
    "A": {"ceilings", "tune", "profile"},
    "B": {"attention"},
    "C": {"planning", "kmeans", "attention", "memory"},
    "D": {"steps", "step parts"},
    "E": set(),
}
# What a CPU or this environment does not have; of the configs, one that no GPU's shared memory holds.
MAY_BE_MISSING = {"sdpa-cudnn", "sdpa-efficient", "sageattention", "flashinfer", "sol-attn", "flash_kmeans"}
MAY_BE_MISSING |= {"256x128w8s5t32d128a"}


@pytest.fixture
def run_call(run):
    """Runs a call, and returns its exit status, what it printed, and the exit status of each step by the summary."""

    def run_call(call: str, out: Path | str, python: Path | str = sys.executable) -> tuple[int, str, dict[str, int]]:
        result = run("bash", SCRIPT, call, out, PYTHON=str(python), REHEARSE="1")
        lines = [line.split() for line in result.stdout.splitlines() if " exit " in line]
        return result.returncode, result.stdout, {words[0]: int(words[2]) for words in lines if words[1] == "exit"}

    return run_call


@pytest.fixture
def planned(run_call):
    """Seconds of each step of a call."""

    def planned(call: str) -> dict[str, int]:
        *steps, last = run_call(call, "--plan")[1].splitlines()
        seconds = {name: int(number) for number, name in map(str.split, steps)}
        assert int(last.split()[0]) == sum(seconds.values()) + 5 * len(seconds) < MOST_SECONDS
        return seconds

    return planned


@pytest.mark.parametrize("call", OPS)
def test_every_step_fits_and_runs(call, run_call, planned, tmp_path):
    host = call == "D" and (find_hosts() or pytest.skip("no ComfyUI found: set COMFYUI_PATH"))[0]
    code, said, status = run_call(call, tmp_path, prepare_host(host) if host else sys.executable)
    assert code == 0 and status == dict.fromkeys(planned(call), 0), said
    files = {file.name: file for file in tmp_path.iterdir()}
    assert call != "E" or "tiny_wan.safetensors" in files
    assert len(files) <= MOST_FILES and all(file.stat().st_size < MOST_BYTES for file in files.values())
    rows = [json.loads(line) for line in files[f"{call}.jsonl"].read_text().splitlines()] if OPS[call] else []
    assert {row["op"] for row in rows} == OPS[call]
    for row in rows:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), row
        assert "missing" not in row or row.get("config", row.get("provider")) in MAY_BE_MISSING, row
    if call == "A":
        assert (tmp_path / "trace.json.gz").stat().st_size < 4 << 20
        tuned = json.loads((tmp_path / "tile_configs.json").read_text())
        assert tuned.keys() == json.loads((SCRIPT.parents[1] / "kernels" / "tile_configs.json").read_text()).keys()


def test_a_failing_step_stops_no_other(run_call, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *attention.py*wan14b*) exit 3;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    code, _, status = run_call("B", tmp_path / "out", python)
    assert code == 1 and status == {"wan": 3, "cogvideox": 0}
    assert (tmp_path / "out" / "B.jsonl").stat().st_size > 0


def test_failing_tests_are_said_loudly(run_call, planned, tmp_path):
    code, said, status = run_call("A", tmp_path, "false")
    assert code == 1 and status.keys() == planned("A").keys() and 0 not in status.values()
    assert "THE TESTS FAILED" in said.split("== counters")[1]
