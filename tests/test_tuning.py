"""The numbers of docs/tuning.md are those of benchmarks/results."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
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


def test_what_the_text_says_of_a_later_start():
    psnr = {(row["provider"], row["setting"], row["start_percent"]): row["psnr"] for row in results("quality.jsonl")}
    gains = [psnr["svg", f"sparsity={s}", 0.2] - psnr["svg", f"sparsity={s}", 0.0] for s in (0.6, 0.8)]
    said = re.search(r"is worth ([\d.]+) dB to SVG at `sparsity` 0.6, and ([\d.]+) dB at 0.8", TEXT)
    assert [f"{gain:.1f}" for gain in gains] == [*said.groups()]


def test_what_the_text_says_of_the_tail_on_a_cpu():
    rows = {row["provider"]: row for row in results("cpu.jsonl") if 0.2 < row["density"] < 0.3}
    with_tail, without = rows["svg2+tail-torch"], rows["svg2-torch"]
    said = re.search(
        r"with the tail was ([\d.]+) times as fast as dense, without it ([\d.]+) times, at errors of ([\d.]+) and ([\d.]+)",
        TEXT,
    )
    figures = (with_tail["speedup"], without["speedup"], with_tail["error"], without["error"])
    assert all(abs(float(text) - figure) <= 0.005 for text, figure in zip(said.groups(), figures, strict=True))
