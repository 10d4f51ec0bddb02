"""The benchmarks run on a CPU at a small shape and write rows that the report reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ENVIRONMENT = {"device", "driver", "torch", "triton", "commit"}
DIFFERENCES = ("score", "lists", "pairs", "all but score", "tail")  # of times
PARTS = {"k-means", "tiles", "moments of v", "choice", "budget", "plans", "all", "all, labels kept"}
COLUMNS = {"op", "provider", "shape", "tokens", "ms", "ms_p20", "ms_p80", "peak_bytes"}
SMALL = ("--shapes", "cpu_2k", "--repeats", 1)
OURS = {"svg-torch", "svg2-torch", "svg2+tail-torch", "svg-torch-call", "svg2+tail-torch-call"}


def report(run, folder: Path) -> str:
    return run(sys.executable, FOLDER / "report.py", "--results", folder).stdout


@pytest.mark.parametrize("script", ["attention", "kmeans", "planning"])
def test_runs_and_reports(script, rows_of, run, tmp_path):
    rows = rows_of(script, *SMALL)
    measured = [row for row in rows if "missing" not in row and row.get("part") not in DIFFERENCES]
    assert measured and all(row.keys() >= COLUMNS | ENVIRONMENT and row["ms"] > 0 for row in measured)
    if script == "attention":
        assert {row["provider"] for row in measured} == {"sdpa", *OURS}
    if script == "planning":
        found = {row["part"] for row in rows if row["provider"] == "svg2-torch"}
        assert found == {*PARTS, *DIFFERENCES, "attention", "attention with the tail"}
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = report(run, tmp_path)
    assert script == "kmeans" or all(row["provider"] in said for row in measured)


def test_an_empty_folder_of_results_says_what_to_do(run, tmp_path):
    assert "attention.py --json" in report(run, tmp_path)


def test_a_provider_that_fails_or_is_wrong_is_a_row_and_the_others_go_on(monkeypatch):
    """The executor fails for SVG2's plans with a tail, and is wrong for those without; a dense provider fails, too."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import attention
    import calls
    from shapes import SHAPES

    gather, alone, spoiling = calls.gather_attention, attention.kernel_alone, []

    def kernel_alone(q, k, v, config, shape):
        spoiling[:] = [getattr(config, "tail", None)]
        try:
            return alone(q, k, v, config, shape)
        finally:
            spoiling.clear()

    def spoiled(*args, **options):
        if "second_order" in spoiling:
            raise RuntimeError("no room")
        out = gather(*args, **options)
        return out.add_(1) if "off" in spoiling else out

    def broken():
        raise RuntimeError("no driver")

    dense = attention.dense_providers
    providers = {"sdpa-broken": attention.Provider(broken)}
    monkeypatch.setattr(calls, "gather_attention", spoiled)
    monkeypatch.setattr(attention, "kernel_alone", kernel_alone)
    monkeypatch.setattr(attention, "dense_providers", lambda q, k, v: (dense(q, k, v)[0] | providers, {}))
    arguments = SimpleNamespace(device="cpu", densities=(0.25,), repeats=1, seconds=0, end=float("inf"))
    rows = {row["provider"]: row for row in attention.rows_of(SHAPES["cpu_2k"], arguments)}
    assert all("ms" in rows[name] for name in ("sdpa", "svg-torch", "svg-torch-call")), rows
    assert rows["sdpa-broken"]["missing"] == "RuntimeError: no driver"
    assert rows["svg2+tail-torch"]["missing"] == "RuntimeError: no room" and "ms" not in rows["svg2+tail-torch"]
    assert rows["svg2-torch"]["missing"].startswith("WrongResult: off by") and "ms" not in rows["svg2-torch"]


def test_after_its_seconds_a_script_starts_nothing_more(rows_of, tmp_path):
    """What it leaves out is a row with the reason, and tuning leaves the table as it was."""
    table, given = tmp_path / "table.json", (FOLDER.parent / "kernels" / "tile_configs.json").read_text()
    table.write_text(given)
    sdpa, *late = rows_of("attention", *SMALL, "--seconds", 0)
    late += rows_of("tune", "--seconds", 0, "--table", table, "--configs", "128x64w8s5", REHEARSE="1")
    assert sdpa["provider"] == "sdpa" and late[0]["provider"] == "all"
    assert all("missing" in row for row in late) and {row["op"] for row in late} == {"attention", "tune"}
    assert table.read_text() == given
