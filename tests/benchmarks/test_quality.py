"""The quality benchmarks at a small size, and the planners that only they have."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = {
    "quality": ("--prompts", 1, "--seeds", 1, "--frames", 3, "--pixels", 48, "--steps", 2),
    "quality_heads": ("--heads", 2, "--grid", 4, 16, 16),
}
PROVIDERS = {"svg", "svg2-paper", "svg2-mass", "svg2", "svg2-target", "top-blocks", "random-blocks", "random-clusters-tail"}
WITH_TAIL = ("svg2-mass", "svg2", "svg2-target", "random-clusters-tail")


@pytest.fixture(scope="module")
def rows(run, tmp_path_factory):
    """The rows of both benchmarks, in one folder."""
    folder = tmp_path_factory.mktemp("results")
    for name, size in SMALL.items():
        done = run(sys.executable, FOLDER / f"{name}.py", *size, "--json", folder / f"{name}.jsonl")
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def read(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", SMALL)
def test_every_method_has_rows(rows, name):
    found = read(rows, name)
    assert {row["provider"] for row in found} == PROVIDERS
    for row in found:
        assert 0 < row["density"] <= 1 and row["density"] <= row["computed"] + 1e-6 and 0 < row["error"] < 2
    if name == "quality":
        assert {row["start_percent"] for row in found} == {0.0, 0.2}
        assert all(0 < row["psnr_min"] <= row["psnr"] and -1 <= row["ssim"] <= 1 for row in found)
        for row in found:
            dense_share = 0.5 if row["start_percent"] else 0.0  # one of two steps
            assert row["work"] == pytest.approx(dense_share + (1 - dense_share) * row["density"])
        # Without a tail so small a video may have nothing in common with the dense one; with it, it must.
        assert all(row["ssim"] > 0.2 for row in found if row["provider"] in WITH_TAIL)


def errors(rows) -> dict[tuple[str, str], float]:
    return {(row["provider"], row["setting"]): row["error"] for row in read(rows, "quality_heads")}


def test_the_choice_helps_and_chance_does_not(rows):
    found = errors(rows)
    assert found["svg2-mass", "top_p=0.5"] < 0.5 * found["svg2-paper", "top_p=0.5"]
    assert found["top-blocks", "density=0.2"] < found["random-blocks", "density=0.2"]
    assert found["svg2", "density=0.15"] < 0.5 * found["random-clusters-tail", "density=0.15"]
    assert found["svg2", "density=0.3"] < found["svg2", "density=0.15"] < found["svg2", "density=0.05"]


def test_chance_has_the_same_density_as_the_choice(rows):
    found = {(row["provider"], row["setting"]): row["density"] for row in read(rows, "quality_heads")}
    settings = [setting for provider, setting in found if provider == "random-clusters-tail"]
    assert len(settings) == 4
    for setting in settings:
        assert found["random-clusters-tail", setting] == pytest.approx(found["svg2", setting], rel=0.02), setting


def test_a_target_is_met(rows):
    assert errors(rows)["svg2-target", "target_error=0.02"] == pytest.approx(0.02, rel=0.6)


def test_a_study_has_rows_of_its_own_steps_and_renders_nothing_twice(run, tmp_path):
    file, names = tmp_path / "studies.jsonl", ["density_start, 4 steps", "cond and uncond", "score_every"]
    size = [*SMALL["quality"], "--providers", *names]
    done = run(sys.executable, FOLDER / "quality.py", "--studies", *size, "--json", file)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(row["op"], row["provider"], row["steps"]) for row in found} == {
        ("quality-study", name, 4 if "4 steps" in name else 2) for name in names
    }
    by_name = {(row["provider"], row["setting"]): row for row in found}
    base, same = by_name["cond and uncond", "shared"], by_name["score_every", "2"]
    assert base["seconds"] == same["seconds"] != by_name["cond and uncond", "not shared"]["seconds"]
    assert base["psnr"] != by_name["cond and uncond", "not shared"]["psnr"]


def test_a_schedules_row_says_its_work_and_its_error_of_change(run, tmp_path):
    file = tmp_path / "schedules.jsonl"
    done = run(sys.executable, FOLDER / "quality.py", "--schedules", *SMALL["quality"], "--providers", "svg2", "--json", file)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["op"] for row in found} == {"quality-schedule"} and {row["steps"] for row in found} == {4, 8, 10}
    for row in found:
        counts = dict(re.findall(r"(first|last) (\d)", row["setting"]))
        dense = sum(map(int, counts.values())) / row["steps"]
        assert row["start_percent"] == int(counts.get("first", 0)) / row["steps"]
        assert (row["end_percent"] < 1) == ("last" in counts)
        assert row["work"] == pytest.approx(dense + (1 - dense) * row["density"]) and 0 < row["change_error"] < 2


SCHEDULES = """
from quality import at_work
from sparse_videogen.svg_core import places
for method, steps, share, first, last, start in (
    ("svg2", 4, 0.475, 1, 0, 1.0), ("svg2", 8, 0.3, 0, 0, 1.5), ("svg2", 10, 0.65, 4, 1, 1.25), ("svg", 8, 0.55, 2, 0, 1.0)
):
    job = at_work(method, steps, share, first, last, start)
    progress = [i / steps for i in range(steps + 1)]
    place = places(progress, job.start_percent, job.end_percent)
    configs = [job.config.at(place[i]) for i in range(first, steps - last)]
    densities = [config.density if method == "svg2" else 1 - config.sparsity for config in configs]
    assert abs((first + last + sum(densities)) / steps - share) < 1e-6, (job, densities)
    assert (densities[0] > densities[-1]) == (start > 1)
"""


def test_schedules_have_the_work_that_is_asked_for(run):
    done = run(sys.executable, "-c", SCHEDULES, PYTHONPATH=str(FOLDER))
    assert done.returncode == 0, done.stderr


def test_heads_are_as_concentrated_as_the_models(rows):
    row = read(rows, "quality_heads")[0]
    low, high = row["head_density"]
    assert low == pytest.approx(0.0798 if row["shape"] == "wan2.1_t2v_14b" else None, abs=0.06) and high > low


def test_the_report_shows_tables_and_a_plot(run, rows, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import quality_report

    text = run(sys.executable, FOLDER / "quality_report.py", "--results", rows, "--plot", tmp_path / "plot.png").stdout
    for op, name, kept in (
        ("quality", "SVG2 by error", "20%"),
        ("quality-heads", "SVG2 by error, to a target", "target_error=0.05"),
    ):
        header, cells = quality_report.TABLES[op][1:]
        (body,) = re.findall(rf"^{re.escape(f'| {header} |')}\n.*\n((?:\|.*\n)*)", text, re.MULTILINE)
        lines = [line.strip("| ").split(" | ") for line in body.splitlines()]
        assert all(len(line) == len(cells.split()) and all(line) for line in lines)
        assert any(line[0] == name and kept in line for line in lines)
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_an_unknown_model_is_refused(run):
    done = run(sys.executable, FOLDER / "quality_heads.py", "--model", "wan9")
    assert done.returncode and "no model 'wan9'; there are hunyuan_i2v_13b" in done.stderr


BASELINES = """
import torch
from measure import layout_of
from baselines import Blocks, plan
from sparse_videogen.kernels import gather_attention
from sparse_videogen.svg_core import Call, SparseState
gather_attention.DEBUG = True  # every index is looked at
q, k, v = (torch.randn(1, 2, 150, 64) for _ in range(3))
for random in (False, True):
    assert Blocks(0.3, random).at(0.5) == Blocks(0.3, random)
    made = (plan(q, k, v, Call(Blocks(share, random), None, 0.125, 64, "torch"), SparseState(), 0) for share in (1.0, 0.3))
    (_, whole), (_, part) = (part for planned in made for part in planned.parts)
    outs = [gather_attention.gather_attention(q, k, v, each, sm_scale=0.125) for each in (whole, part)]
    torch.testing.assert_close(outs[0], torch.nn.functional.scaled_dot_product_attention(q, k, v))
    assert part.key_count.max() <= 64
"""


def test_baseline_plans_hold_what_they_say(run):
    done = run(sys.executable, "-c", BASELINES, PYTHONPATH=str(FOLDER))
    assert done.returncode == 0, done.stderr
