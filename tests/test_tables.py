"""The tables of quality in docs/ are those of benchmarks/results, as quality_report.py prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"quality-heads": "tuning", "quality-study": "tuning", "quality-schedule": "tuning", "quality": "quality"}


@pytest.mark.parametrize("op, page", PAGES.items())
def test_every_line_is_a_row_of_the_results(op, page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import quality_report

    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    header = f"| {quality_report.TABLES[op][1]} |\n"
    lines = text.split(header, 1)[1].split("\n\n")[0].splitlines()[1:]
    rows = [row for row in quality_report.read(quality_report.RESULTS) if row["op"] == op]
    assert len(lines) > 10 and set(lines) <= set(quality_report.tables(rows))
