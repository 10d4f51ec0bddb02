"""The calls that run unattended on a GPU, rehearsed on a CPU: every step runs, in time, and none stops another."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "run_gpu.sh"
MOST_SECONDS = 540
MOST_FILES = 8
OPS = {"A": {"ceilings", "tune", "profile"}, "B": {"attention"}, "C": {"planning", "kmeans", "attention", "memory"}}
# What a CPU or this environment does not have; of the configs, one that no GPU's shared memory holds.
MAY_BE_MISSING = {
    "sdpa-cudnn",
    "sdpa-efficient",
    "sageattention",
    "flashinfer",
    "sol-attn",
    "flash_kmeans",
    "256x128w8s5t32d128a",
}


def run(call: str, out: Path | str, python: Path | str = sys.executable, **environment) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "SPARSE_VIDEOGEN_DEBUG")}
    env |= {"PYTHON": str(python), **environment}
    return subprocess.run(["bash", SCRIPT, call, str(out)], env=env, capture_output=True, text=True)


def planned(call: str) -> dict[str, int]:
    """Seconds of each step."""
    *steps, last = run(call, "--plan").stdout.splitlines()
    seconds = {name: int(number) for number, name in map(str.split, steps)}
    assert int(last.split()[0]) == sum(seconds.values()) + 5 * len(seconds)
    return seconds


def exits(stdout: str) -> dict[str, int]:
    """Exit status of each step, by the summary."""
    lines = [line.split() for line in stdout.splitlines() if " exit " in line]
    return {words[0]: int(words[2]) for words in lines if words[1:2] == ["exit"]}


@pytest.mark.parametrize("call", OPS)
def test_the_steps_fit(call):
    seconds = planned(call)
    assert sum(seconds.values()) + 5 * len(seconds) < MOST_SECONDS


@pytest.mark.parametrize("call", OPS)
def test_every_step_runs(call, tmp_path):
    result = run(call, tmp_path, REHEARSE="1")
    status = exits(result.stdout)
    assert result.returncode == 0 and status == dict.fromkeys(planned(call), 0), result.stdout + result.stderr
    assert len(list(tmp_path.iterdir())) <= MOST_FILES
    rows = [json.loads(line) for line in (tmp_path / f"{call}.jsonl").read_text().splitlines()]
    assert {row["op"] for row in rows} == OPS[call]
    for row in rows:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), row
        assert "missing" not in row or row.get("config", row.get("provider")) in MAY_BE_MISSING, row
    if call == "A":
        assert (tmp_path / "trace.json.gz").stat().st_size < 4 << 20
        tuned = json.loads((tmp_path / "tile_configs.json").read_text())
        assert tuned.keys() == json.loads((SCRIPT.parents[1] / "kernels" / "tile_configs.json").read_text()).keys()


def test_a_failing_step_stops_no_other(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *attention.py*wan14b*) exit 3;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = run("B", tmp_path / "out", python, REHEARSE="1")
    assert result.returncode == 1 and exits(result.stdout) == {"wan": 3, "cogvideox": 0}
    assert (tmp_path / "out" / "B.jsonl").stat().st_size > 0


def test_failing_tests_are_said_loudly(tmp_path):
    result = run("A", tmp_path, "false", REHEARSE="1")
    assert (
        result.returncode == 1 and exits(result.stdout).keys() == planned("A").keys() and 0 not in exits(result.stdout).values()
    )
    assert "THE TESTS FAILED" in result.stdout.split("== counters")[1]
