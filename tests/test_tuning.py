"""The tables of docs/tuning.md are those of benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
METHODS = {"svg": "SVG", "svg2-full-tiles": "SVG2, no tail", "svg2-tail-2": "SVG2, second-order tail"}


def results(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8").splitlines()]


def head_rows() -> list[str]:
    """Error against density, on heads as concentrated as a real model's."""
    return [
        f"| {METHODS[row['provider']]} | {row['setting']} | {row['density']:.3f} | {row['error']:.3f} "
        f"| {row['error_max']:.3f} |"
        for row in results("quality_heads.jsonl")
        if row["provider"] in METHODS
    ]


def study_rows() -> list[str]:
    """One setting of SVG2 at a time."""
    return [
        f"| {row['provider']} | {row['setting']} | {row['density']:.3f} | {row['psnr']:.1f} dB | {row['error']:.3f} |"
        for row in results("quality_studies.jsonl")
    ]


def table(head: str) -> list[str]:
    return PAGE.split(f"{head} |\n", 1)[1].split("\n\n")[0].splitlines()[1:]


def test_tables_are_the_results():
    assert table("worst head") == head_rows()
    assert table("attention error") == study_rows()
