"""What several GPUs should gain: more with each, never more than their number, and less over a slow link."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def tables(run) -> list[list[list[str]]]:
    """Cells of the tables' rows, header apart."""
    result = run(sys.executable, SCRIPT, "--shape", "wan14b_480p")
    assert result.returncode == 0, result.stderr[-3000:]
    parts = result.stdout.split("\n### ")[1:]
    return [[line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")][1:] for part in parts]


def test_each_gpu_adds_less_than_its_share(tables):
    rows = tables[0]
    assert len(rows) == 16
    for first in range(0, len(rows), 4):
        gains = [float(row[-1]) for row in rows[first : first + 4]]
        assert gains[0] == 1 and gains == sorted(set(gains))
        assert all(gain <= gpus for gain, gpus in zip(gains, (1, 2, 4, 8), strict=True))


def test_what_is_exchanged_is_what_is_not_there_yet(tables):
    """Of q, k, v and the output of 40 layers and both conditionings, half on two GPUs: 2 bytes of 40 heads of 128."""
    moved = 2 * 40 * 4 * 2 * 40 * 128 * 32760 / 2 / 2
    for _, link, gpus, _, exchange, *_ in tables[0]:
        if gpus == "1":
            assert float(exchange) == 0
        elif gpus == "2":
            rate = {"NVLink 4": 360e9, "NVLink 3": 240e9, "PCIe 5": 21e9, "PCIe 4": 10e9}[link]
            assert float(exchange) == pytest.approx(moved / rate, abs=0.006)


def test_memory_shrinks_with_the_heads(tables):
    states = [int(row[2]) for row in tables[1]]
    assert states == pytest.approx([states[0] / gpus for gpus in (1, 2, 4, 8)], abs=2)


def test_one_top_p_for_all_heads_costs_balance(tables):
    rows = {row[0]: row[1:] for row in tables[2]}
    assert rows["wan2.1_t2v_14b"] == ["40", "1.11", "1.25", "1.45"]
    assert rows["wan2.1_t2v_1.3b"][0] == "12" and len([cell for cell in rows["wan2.1_t2v_1.3b"] if cell]) == 3  # not on 8
