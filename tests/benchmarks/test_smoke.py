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
DIFFERENCES = ("choice", "pairs")  # of two times
COLUMNS = {"op", "provider", "shape", "tokens", "ms", "ms_p20", "ms_p80", "peak_bytes"}


def run(script: str, *arguments, **environment) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "SPARSE_VIDEOGEN_DEBUG")}
    env |= environment
    command = [sys.executable, FOLDER / f"{script}.py", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("script", ["attention", "kmeans", "planning"])
def test_runs_and_reports(script, tmp_path):
    file = tmp_path / "rows.jsonl"
    run(script, "--device", "cpu", "--shapes", "cpu_2k", "--repeats", 1, "--json", file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    measured = [row for row in rows if "missing" not in row and row.get("part") not in DIFFERENCES]
    assert measured and all(row.keys() >= COLUMNS | ENVIRONMENT and row["ms"] > 0 for row in measured)
    if script == "attention":
        providers = {row["provider"] for row in measured}
        ours = {"svg-torch", "svg2-torch", "svg2+tail-torch", "svg-torch-call", "svg2+tail-torch-call"}
        assert providers == {"sdpa", *ours}
        report = run("report", "--results", tmp_path, "--plot", tmp_path / "plot.png")
        assert all(provider in report for provider in providers)
        assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_provider_that_fails_or_is_wrong_is_a_row_and_the_others_go_on(tmp_path):
    """The executor fails for SVG2's plans with a tail, and is wrong for those without; a dense provider fails, too."""
    file, script = tmp_path / "rows.jsonl", tmp_path / "spoiled.py"
    script.write_text(SPOILED.format(folder=str(FOLDER)))
    command = [sys.executable, script, "--device", "cpu", "--shapes", "cpu_2k", "--repeats", "1", "--json", file]
    subprocess.run(command, capture_output=True, text=True, check=True)
    rows = {row["provider"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert "ms" in rows["svg-torch"] and "ms" in rows["sdpa"] and "ms" in rows["svg-torch-call"]
    assert rows["sdpa-broken"]["missing"] == "RuntimeError: no driver"
    assert rows["svg2+tail-torch"]["missing"] == "RuntimeError: no room" and "ms" not in rows["svg2+tail-torch"]
    assert rows["svg2-torch"]["missing"].startswith("WrongResult: off by") and "ms" not in rows["svg2-torch"]


SPOILED = """
import sys
sys.path.insert(0, {folder!r})
import attention, checks
gather, alone, spoiling = checks.gather_attention, attention.kernel_alone, []
def spoiled(*args, **options):
    if "second_order" in spoiling:
        raise RuntimeError("no room")
    out = gather(*args, **options)
    return out.add_(1) if "off" in spoiling else out
def kernel_alone(q, k, v, config, shape):
    spoiling[:] = [getattr(config, "tail", None)]
    try:
        return alone(q, k, v, config, shape)
    finally:
        spoiling.clear()
def broken():
    raise RuntimeError("no driver")
dense = attention.dense_providers
attention.dense_providers = lambda q, k, v: ({{**dense(q, k, v)[0], "sdpa-broken": broken}}, {{}})
checks.gather_attention, attention.kernel_alone = spoiled, kernel_alone
attention.main()
"""


def test_after_its_seconds_a_script_starts_nothing_more(tmp_path):
    """What it leaves out is a row with the reason, and tuning leaves the table as it was."""
    file, table, given = tmp_path / "rows.jsonl", tmp_path / "table.json", FOLDER.parent / "kernels" / "tile_configs.json"
    table.write_text(given.read_text())
    run("attention", "--device", "cpu", "--shapes", "cpu_2k", "--repeats", 1, "--seconds", 0, "--json", file)
    run("tune", "--seconds", 0, "--table", table, "--configs", "128x64w8s5", "--json", file, REHEARSE="1")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["provider"] for row in rows if row["op"] == "attention"] == ["sdpa", "all"]
    assert all("missing" in row for row in rows[1:]) and {row["op"] for row in rows[1:]} == {"attention", "tune"}
    assert json.loads(table.read_text()) == json.loads(given.read_text())


def test_an_empty_folder_of_results_says_what_to_do(tmp_path):
    assert "attention.py --json" in run("report", "--results", tmp_path)
