"""The benchmarks run on a CPU at a small shape and write rows that the report reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ENVIRONMENT = {"device", "driver", "torch", "triton", "commit"}
COLUMNS = {"op", "provider", "shape", "tokens", "ms", "ms_p20", "ms_p80", "peak_bytes"}


def run(script: str, *arguments) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "SPARSE_VIDEOGEN_DEBUG")}
    command = [sys.executable, FOLDER / f"{script}.py", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("script", ["attention", "kmeans", "planning"])
def test_runs_and_reports(script, tmp_path):
    file = tmp_path / "rows.jsonl"
    run(script, "--device", "cpu", "--shapes", "cpu_2k", "--repeats", 1, "--json", file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    measured = [row for row in rows if "missing" not in row]
    assert measured and all(row.keys() >= COLUMNS | ENVIRONMENT and row["ms"] > 0 for row in measured)
    if script == "attention":
        providers = {row["provider"] for row in measured}
        assert providers == {"sdpa", "svg-torch", "svg2-torch", "svg2+tail-torch"}
        report = run("report", "--results", tmp_path, "--plot", tmp_path / "plot.png")
        assert all(provider in report for provider in providers)
        assert (tmp_path / "plot.png").stat().st_size > 1000


def test_an_empty_folder_of_results_says_what_to_do(tmp_path):
    assert "attention.py --json" in run("report", "--results", tmp_path)
