"""What a run counts, and where its window begins; needs no host."""

from __future__ import annotations

import math

import pytest
import torch
from sparse_videogen.kernels import backend
from sparse_videogen.nodes.run import Run, summary
from sparse_videogen.nodes.settings import Settings
from sparse_videogen.svg_core import AttentionStats, SVGConfig


def make_run(start=math.inf, end=-math.inf, **settings):
    return Run(Settings(SVGConfig(), node_id="7", **settings), start, end)


def stats(density):
    return AttentionStats(torch.full((1, 2), density), torch.full((1, 2), density + 0.1), None, None)


@pytest.mark.parametrize("shift", [1.0, 5.0, 8.0])
@pytest.mark.parametrize("steps, percent, dense", [(30, 0.2, 6), (20, 0.2, 4), (30, 0.1, 3), (50, 0.3, 15)])
def test_a_step_on_the_border_is_sparse(steps, percent, dense, shift):
    """The simple schedule's steps stand at whole shares of it, in float32."""

    def shifted(t):
        return shift * t / (1 + (shift - 1) * t)

    run = make_run(start=shifted(1 - percent), start_percent=percent)
    sigmas = torch.tensor([shifted(1 - step / steps) for step in range(steps)], dtype=torch.float32)
    assert sum(run.schedule_reason(float(sigma)) is not None for sigma in sigmas) == dense


def test_the_whole_schedule_is_sparse_without_borders():
    run = make_run()
    assert all(run.schedule_reason(sigma) is None for sigma in (1e9, 1.0, 0.0))


def test_the_line_of_a_run():
    run = make_run()
    for density in (0.2, 0.4):
        run.count_sparse(stats(density), layer=1)
    for reason in ("start_percent: early", "dense_blocks: 0", "start_percent: early"):
        run.count_dense(reason)
    report = run.report()
    assert report["density"] == pytest.approx(0.3) and report["computed"] == pytest.approx(0.4)
    assert summary(report) == "SVG: sparse 2/5 calls, density 0.30, computed 0.40, dense: 2 start_percent, 1 dense_blocks"
    assert summary(make_run().report()) == "SVG: sparse 0/0 calls"


def test_a_kernel_that_failed_is_named(monkeypatch):
    monkeypatch.setattr(backend, "_failures", {"assign": "RuntimeError: no ptxas"})
    report = make_run().report()
    assert report["kernel_failures"] == {"assign": "RuntimeError: no ptxas"}
    assert summary(report).endswith("torch in place of Triton: assign")


def test_an_error_keeps_the_rest_dense_and_is_logged_once(caplog):
    run = make_run()
    reasons = {run.fail(RuntimeError("broken")) for _ in range(3)}
    assert reasons == {"error: RuntimeError: broken"} and run.failure in reasons
    assert len(caplog.records) == 1 and caplog.records[0].exc_info


@pytest.mark.parametrize("sigmas, sparse", [([1.0, 0.9, 0.0], False), ([1.0, 0.7, 0.0], True), (None, True)])
def test_warm_up_is_worth_it_only_before_a_sparse_step(sigmas, sparse):
    run = make_run(start=0.8, start_percent=0.2)
    run.begin_forward({} if sigmas is None else {"sample_sigmas": torch.tensor(sigmas)})
    assert run.goes_sparse is sparse
