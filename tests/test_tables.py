"""The tables of quality in docs/ are those of benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "svg": "SVG",
    "svg2-paper": "SVG2 as published",
    "svg2-full-tiles": "SVG2, full tiles, no tail",
    "svg2-tail-0": "SVG2, zero-order tail",
    "svg2-tail-2": "SVG2, second-order tail",
    "top-blocks": "top 64-blocks, by means",
    "random-blocks": "random 64-blocks",
}
HEADS = "| {method} | {setting} | {density:.3f} | {error:.3f} | {error_max:.3f} |"
STUDIES = "| {provider} | {setting} | {density:.3f} | {psnr:.1f} dB | {error:.3f} |"
VIDEOS = "| {method}, {setting} | {density:.3f} | {computed:.3f} | {psnr:.1f} dB | {ssim:.3f} | {error:.3f} |"


@pytest.mark.parametrize(
    "page, column, results, form",
    [("tuning", "worst head", "quality_heads", HEADS), ("tuning", "attention error", "quality_studies", STUDIES)]
    + [("quality", "attention error", "quality", VIDEOS)],
)
def test_every_line_is_a_row_of_the_results(page, column, results, form):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    lines = text.split(f"{column} |\n", 1)[1].split("\n\n")[0].splitlines()[1:]
    rows = map(json.loads, (ROOT / "benchmarks" / "results" / f"{results}.jsonl").read_text(encoding="utf-8").splitlines())
    assert len(lines) > 10 and set(lines) <= {form.format(**row, method=METHODS.get(row["provider"])) for row in rows}
