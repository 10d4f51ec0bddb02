"""The reports of several GPUs as one; needs no host."""

from __future__ import annotations

import json

import pytest
import torch
from sparse_videogen.nodes.join import join
from sparse_videogen.nodes.lines import log_line
from sparse_videogen.nodes.reasons import Reason
from sparse_videogen.nodes.run import Run
from sparse_videogen.nodes.settings import Settings
from sparse_videogen.svg_core import AttentionStats, SVGConfig

SCHEDULE = torch.tensor([1.0, 0.5, 0.0])
LATE = Reason("start_percent", "sparse from 50% of the schedule on")


def report(density: float, *, sparse_layers: int = 2, layers: int = 2, heads: int = 2, broken: bool = False) -> dict:
    """Of two steps, of which the first is dense, with so many layers; the last ones may stay dense too."""
    run = Run(Settings(SVGConfig(), node_id="7"), 0.6, 0.0)
    for step in (1.0, 0.5):
        run.begin_forward({"sigmas": torch.tensor([step]), "sample_sigmas": SCHEDULE})
        for layer in range(layers):
            if step == 1.0 or layer >= sparse_layers:
                run.count_dense(LATE if step == 1.0 else Reason("error", "RuntimeError: no kernel"), layer)
                continue
            values = {"density": density, "computed": density + 0.1, "error": 0.05, "finite": not broken, "dense": False}
            same = {name: torch.full((1, heads), value) for name, value in (values | {"exact_finite": True}).items()}
            pattern = torch.tensor([[0, 1]])
            run.count_sparse([AttentionStats(**same, pattern=pattern, kept_fraction=None, alike=None)], layer)
    with run.record.timed("sparse", torch.device("cpu")):
        pass
    return run.report()


def test_of_one_gpu_nothing_changes():
    only = report(0.3)
    assert join([only]) == only


def test_calls_are_added_and_figures_averaged():
    joined = join([report(0.2), report(0.4)])
    assert (joined["sparse_calls"], joined["calls"], joined["gpus"]) == (4, 8, 2)
    assert joined["density"] == pytest.approx(0.3) and joined["work"] == pytest.approx((0.4 + 1) / 2)
    assert joined["layers"]["density"] == [pytest.approx(0.3)] * 2
    assert [step["density"] for step in joined["steps"]] == [[None, None], [pytest.approx(0.3)] * 2]
    assert joined["dense_reasons"] == {"start_percent": 4} and joined["steps"][0]["reasons"] == {LATE.label: LATE.text}
    assert joined["attention"]["sparse"]["calls"] == 2 and joined["node"] == "7"
    words = "SVG: 4 of 8 calls sparse on 2 GPUs, density 0.30, error 5.0%, 0.70 of the work of dense attention"
    assert log_line(joined) == f"{words}; 50% of heads spatial, 50% temporal; calls that stayed dense: 4 start_percent"
    json.dumps(joined)


def test_a_gpu_that_fell_back_counts_by_its_calls():
    """Means are over sparse calls; a GPU without any adds none, and says why."""
    joined = join([report(0.2), report(0.8, sparse_layers=0), report(0.5, sparse_layers=1)])
    assert (joined["sparse_calls"], joined["calls"]) == (3, 12)
    assert joined["density"] == pytest.approx((2 * 0.2 + 0.5) / 3, abs=1e-4)
    assert joined["layers"]["density"] == [pytest.approx(0.35), pytest.approx(0.2)]
    assert joined["dense_reasons"] == {"start_percent": 6, "error": 3}
    assert any("no kernel" in note and "(3 calls)" in note for note in joined["notes"])


def test_gpus_that_reached_fewer_layers_and_one_with_a_fault():
    joined = join([report(0.2, layers=1, sparse_layers=1), report(0.4, broken=True)])
    assert joined["layers"]["density"] == [pytest.approx(0.3), pytest.approx(0.4)]
    assert joined["broken_calls"] == 2 and "please report this fault" in joined["warnings"][0]


def test_gpus_without_a_single_call():
    nothing = Run(Settings(SVGConfig()), 1.0, 0.0).report()
    assert join([nothing, nothing])["line"] == "No attention call reached this node"
