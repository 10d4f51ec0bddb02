"""The model of the time: what it predicts follows from the counts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PLANNING = {"assign", "sort", "centroids", "tiles", "score", "budget", "lists"}
SUMS = ("planning", "scoring and tail", "the call")


def tables(text: str) -> dict[str, dict[str, float]]:
    """Milliseconds by part, by title; parts of one name together."""
    found = {}
    for title, body in re.findall(r"^### (.*?): predicted\n(.*?)(?=^###|\Z)", text, re.MULTILINE | re.DOTALL):
        found[title] = {}
        for part, ms in re.findall(r"^\| ([\w ]+) \| ([\d.]+) \|", body, re.MULTILINE):
            found[title][part] = found[title].get(part, 0.0) + float(ms)
    return found


def test_every_gpu_has_a_table(run):
    result = run(sys.executable, FOLDER / "roofline.py", "--shape", "cpu_2k")
    assert result.returncode == 0, result.stderr[-2000:]
    found = tables(result.stdout)
    gpus = ("A100", "H100", "3090", "4090", "5090")
    assert len(found) == 2 * len(gpus) and all(any(gpu in title for title in found) for gpu in gpus)
    for title, parts in found.items():
        own = {part: ms for part, ms in parts.items() if part not in (*SUMS, "dense")}
        assert {"attention", "launches"} <= own.keys()
        if title.startswith("svg2"):
            whole = parts["planning"] + parts["scoring and tail"] + parts["attention"]
            assert own.keys() >= PLANNING and whole == pytest.approx(parts["the call"], abs=0.2)
        else:
            assert not PLANNING & own.keys() and "planning" not in parts
        assert parts["the call"] == pytest.approx(sum(own.values()), abs=0.06 * len(own))


def test_few_bits_have_a_table_where_the_gpu_has_them(run):
    result = run(sys.executable, FOLDER / "roofline.py", "--shape", "wan1.3b_480p", "--precisions", "16 bit", "int8", "8 bit")
    assert result.returncode == 0, result.stderr[-2000:]
    found = tables(result.stdout)
    assert len([title for title in found if "16 bit" in title]) == len([title for title in found if "int8" in title]) == 10
    assert len([title for title in found if "8 bit" in title]) == 6
    assert {"A100 SXM has no 8 bit", "RTX 3090 has no 8 bit"} <= set(result.stdout.splitlines())
    for title, parts in found.items():
        assert ("quantise" in parts) == ("16 bit" not in title)
        sixteen = next(found[other] for other in found if other.split(",")[:3] == title.split(",")[:3] and "16 bit" in other)
        if "RTX" in title and "16 bit" not in title:  # whose 16-bit products are the slowest part
            assert parts["attention"] < 0.75 * sixteen["attention"]
    line = next(line for line in result.stdout.splitlines() if line.startswith("| RTX 4090 | svg2, int8 | "))
    _, _, density, _, rate, dense, sage = line.strip("| ").split(" | ")
    assert float(density) == pytest.approx(0.25, abs=0.01)
    assert float(dense) == pytest.approx(float(rate) / 164, abs=0.06) and float(sage) < float(dense) / 2


@pytest.fixture
def roofline(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import roofline

    return roofline


@pytest.fixture
def h100(roofline):
    return next(gpu for gpu in roofline.GPUS if gpu.arch == "9.0")


def test_the_last_program_ends_when_its_slot_is_free(roofline):
    assert roofline.makespan([3, 1, 1, 1], 2) == 3 and roofline.makespan([1, 1, 1, 3], 2) == 4


def test_it_knows_waits_from_work(roofline, h100):
    shape = roofline.SHAPES["wan14b_720p"]

    def ms(name: str, keys: int = 18_900) -> float:
        lists = [[keys] * 591] * shape.heads
        tile = roofline.TileConfig.parse(name)
        return sum(part.ms for part in roofline.attention(h100, shape, roofline.Tiles(tile, tile), lists, 1000, 2))

    waits, ahead, half = ms("128x64w8s3t32d128"), ms("128x64w8s5t32d128"), ms("128x64w8s5t32d128", keys=9_450)
    assert ahead < 0.8 * waits and 0.5 * ahead < half < 0.6 * ahead
    with pytest.raises(LookupError, match="add it with compile_kernels.py --configs 128x64w8s9t32d128"):
        ms("128x64w8s9t32d128")


def test_what_was_measured_stands_beside_it(roofline, h100):
    row = {"op": "attention", "device": "NVIDIA H100 80GB HBM3", "shape": "wan14b_720p", "density": 0.26}
    rows = [{**row, "provider": name, "ms": ms} for name, ms in (("svg-triton", 60.0), ("svg-triton-call", 70.0))]
    rows += [{**rows[0], "density": 0.5, "ms": 120.0}, {**rows[0], "shape": "wan14b_480p", "ms": 9.0}]
    known = roofline.measured(rows, h100, "wan14b_720p", "svg", 0.25)
    assert known == {"attention and tail": 60.0, "the call": 70.0}
    parts = [roofline.Part("attention", 50.0, ""), roofline.Part("launches", 1.0, "")]
    lines = roofline.lines_of("", parts, 1e14, 0.25, h100, known)
    assert any(line.startswith("| the call, measured | 70.0 |") and "predicted 51.0" in line for line in lines), lines


def test_what_conditionings_share_counts_once(roofline, h100, monkeypatch):
    """One conditioning's part of a call of two, and all of a call of its own: the score is each one's, the rest is less."""
    shape, lists = roofline.SHAPES["wan14b_720p"], [[18_900] * 591]
    config = roofline.svg2_config(shape, 0.25)

    def parts() -> dict[str, float]:
        made = {}
        for part in roofline.planning(h100, shape, config, lists, 128):
            made[part.name] = made.get(part.name, 0.0) + part.ms
        return made

    shared = parts()
    monkeypatch.setattr(roofline, "CONDITIONINGS", 1)
    alone = parts()
    assert shared.keys() == alone.keys() == PLANNING
    assert all(shared[name] == pytest.approx(alone[name] / 2) for name in ("assign", "sort", "tiles", "budget", "lists"))
    assert alone["centroids"] > shared["centroids"] > alone["centroids"] / 2 and 0.9 * alone["score"] < shared["score"]


def test_every_second_row_costs_half_the_score(roofline, h100):
    shape = roofline.SHAPES["wan14b_720p"]
    every, second = (roofline.scoring(h100, shape, 591, 128, score_every).ms for score_every in (1, 2))
    assert second == pytest.approx(every / 2, rel=0.05)
    # Twice two products of 1,000 clusters (1,024 with the last block) with 75,600 rows, at the rate of the matrix units.
    assert every >= 8 * 1000 * 75_600 * 128 * 40 / (132 * 4096 * 1.70e9) * 1e3
