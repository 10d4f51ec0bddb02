"""The model of the time: what it predicts follows from the counts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


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
    assert len(found) == 8 and all(any(gpu in title for title in found) for gpu in ("A100", "H100", "4090", "5090"))
    for title, parts in found.items():
        own = {part: ms for part, ms in parts.items() if part not in ("the call", "dense")}
        assert {"attention", "launches"} <= own.keys() and ("assign" in own) == title.startswith("svg2")
        assert parts["the call"] == pytest.approx(sum(own.values()), abs=0.06 * len(own))


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
        return sum(part.ms for part in roofline.attention(h100, shape, roofline.TileConfig.parse(name), lists, 1000, 2))

    waits, ahead, half = ms("128x64w8s3t32d128"), ms("128x64w8s5t32d128"), ms("128x64w8s5t32d128", keys=9_450)
    assert ahead < 0.8 * waits and 0.5 * ahead < half < 0.6 * ahead
    with pytest.raises(LookupError, match="add it with compile_kernels.py --configs 128x64w8s9t32d128"):
        ms("128x64w8s9t32d128")


def test_what_was_measured_stands_beside_it(roofline, h100):
    row = {"op": "attention", "device": "NVIDIA H100 80GB HBM3", "shape": "wan14b_720p", "density": 0.26}
    rows = [{**row, "provider": name, "ms": ms} for name, ms in (("svg2+tail-triton", 60.0), ("svg2+tail-triton-call", 70.0))]
    rows += [{**rows[0], "density": 0.5, "ms": 120.0}, {**rows[0], "shape": "wan14b_480p", "ms": 9.0}]
    known = roofline.measured(rows, h100, "wan14b_720p", "svg2", 0.25)
    assert known == {"attention and tail": 60.0, "the call": 70.0}
    parts = [roofline.Part("attention", 50.0, ""), roofline.Part("launches", 1.0, "")]
    lines = roofline.lines_of("", parts, 1e14, 0.25, h100, known)
    assert any(line.startswith("| the call, measured | 70.0 |") and "predicted 51.0" in line for line in lines), lines
