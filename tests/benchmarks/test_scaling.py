"""What several GPUs should gain: more with each, never more than their number, and less over a slow link."""

from __future__ import annotations

import pytest
import scaling


@pytest.fixture(scope="module")
def rows():
    return list(scaling.speed_rows("wan14b_480p", 0.25))


def test_each_gpu_adds_less_than_its_share(rows):
    assert len(rows) == len(scaling.COUNTS) * len(scaling.LINKS)
    for first in range(0, len(rows), len(scaling.COUNTS)):
        gains = [row["gain"] for row in rows[first : first + len(scaling.COUNTS)]]
        assert gains[0] == 1 and gains == sorted(gains)
        assert all(gain <= gpus for gain, gpus in zip(gains, scaling.COUNTS, strict=True))


def test_what_is_exchanged_is_what_is_not_there_yet(rows):
    """Of q, k, v and the output of 40 layers and both conditionings, half on two GPUs: 2 bytes of 40 heads of 128."""
    row = next(row for row in rows if row["link"] == "NVLink 4" and row["gpus"] == 2)
    moved = 2 * 40 * 4 * 2 * 40 * 128 * 32760 / 2 / 2
    assert row["exchange"] == pytest.approx(moved / 360e9 * 1000)
    assert all(row["exchange"] == 0 for row in rows if row["gpus"] == 1)


def test_memory_shrinks_with_the_heads():
    states = [row["state_bytes"] for row in scaling.memory_rows("wan14b_720p", 0.25)]
    assert states == pytest.approx([states[0] / gpus for gpus in scaling.COUNTS], rel=0.01)


def test_one_top_p_for_all_heads_costs_balance():
    rows = {row["model"]: row for row in scaling.balance_rows()}
    wan = rows["wan2.1_t2v_14b"]
    assert [wan[column] for column in scaling.BALANCED] == pytest.approx([1.11, 1.25, 1.45], abs=0.01)
    assert rows["wan2.1_t2v_1.3b"]["eight"] is None  # 12 heads
