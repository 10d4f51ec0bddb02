"""What a run counts, and where its window begins; needs no host."""

from __future__ import annotations

import json
import math
import sys
import threading

import pytest
import torch
from sparse_videogen.kernels import backend
from sparse_videogen.nodes.reasons import Reason
from sparse_videogen.nodes.run import Run
from sparse_videogen.nodes.settings import Settings
from sparse_videogen.svg_core import AttentionStats, SVGConfig


def make_run(start=math.inf, end=-math.inf, tell=lambda kind, message: None, **settings):
    return Run(Settings(SVGConfig(), node_id="7", **settings), start, end, tell=tell)


def stats(density, error=0.05, temporal=None, finite=True, dense=False, exact_finite=True):
    """Of two heads, alike but for the pattern."""
    values = {"density": density, "computed": density + 0.1, "error": error, "finite": finite, "dense": dense}
    same = {name: torch.full((1, 2), value) for name, value in (values | {"exact_finite": exact_finite}).items()}
    return AttentionStats(
        **same, pattern=None if temporal is None else torch.tensor([temporal]), kept_fraction=None, alike=None
    )


def options(sigma, schedule=(1.0, 0.75, 0.5, 0.25, 0.0)):
    return {"sigmas": torch.tensor([sigma]), **({} if schedule is None else {"sample_sigmas": torch.tensor(schedule)})}


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


def test_a_run_is_counted():
    run = make_run()
    run.begin_forward(options(1.0))
    for density in (0.2, 0.4):
        run.count_sparse([stats(density)], layer=1)
    early, first = Reason("start_percent", "early"), Reason("dense_blocks", "0")
    for reason in (early, first, early):
        run.count_dense(reason, layer=0)
    report = run.report()
    assert report["density"] == pytest.approx(0.3) and report["computed"] == pytest.approx(0.4)
    assert report["work"] == pytest.approx((3 + 0.3 + 0.5) / 5)
    assert report["explanations"] == {"start_percent": "early", "dense_blocks": "0"}
    assert report["dense_reasons"] == {"start_percent": 2, "dense_blocks": 1}
    assert report["line"].startswith("2 of 5 calls sparse, density 0.30, error 5.0%")


def test_a_kernel_that_failed_is_named(monkeypatch):
    failed = {"assign (9.0, bfloat16)": "RuntimeError: no ptxas"}
    monkeypatch.setattr(backend, "_failures", failed)
    report = make_run().report()
    assert report["kernel_failures"] == failed
    assert "assign (9.0, bfloat16)" in report["warnings"][0]


def test_the_precision_that_runs_is_told_and_why_it_is_another_once(caplog):
    q = torch.zeros(1, 1, 8, 64)  # float32, which the kernels leave as it is
    run = make_run(precision="8 bit", backend="triton")
    assert run.report()["precision"] is None
    with caplog.at_level("INFO"):
        for _ in range(3):
            run.note_precision(q)
    report, reason = run.report(), "precision '8 bit' cannot run: it is for models in 16 bit, and this one is in float32"
    assert report["precision"] == "16 bit" and report["precision_reason"] == f"{reason}; '16 bit' runs in its place"
    assert [reason in record.message for record in caplog.records] == [True]
    assert report["precision_reason"] in report["notes"]

    run = make_run(precision="8 bit")
    run.note_precision(q)  # on a CPU torch does the work, and rounds as the kernels do
    assert run.report()["precision"] == "8 bit" and run.report()["precision_reason"] is None


def test_after_a_failed_kernel_more_bits_are_taken(monkeypatch):
    pytest.importorskip("triton")
    q, run = torch.zeros(1, 1, 8, 64, dtype=torch.float16), make_run(precision="8 bit", backend="triton")
    run.note_precision(q)
    assert run.report()["precision"] == run.precision_for(q)[0] == "8 bit"
    monkeypatch.setattr(backend, "_failures", {"gather_attention (cpu, float16, 8 bit)": "RuntimeError: no ptxas"})
    run.note_precision(q)
    assert run.report()["precision"] == run.precision_for(q)[0] == "int8"


def test_an_error_keeps_the_rest_dense_and_is_logged_once(caplog):
    run = make_run()
    reasons = {run.fail(RuntimeError("broken")) for _ in range(3)}
    assert reasons == {("error", "RuntimeError: broken")} and run.failure in reasons
    assert len(caplog.records) == 1 and caplog.records[0].exc_info


@pytest.mark.parametrize("sigmas, sparse", [([1.0, 0.9, 0.0], False), ([1.0, 0.7, 0.0], True), (None, True)])
def test_warm_up_is_worth_it_only_before_a_sparse_step(sigmas, sparse):
    run = make_run(start=0.8, start_percent=0.2)
    run.begin_forward(options(1.0, sigmas))
    assert run.goes_sparse is sparse


def test_each_step_is_told_once_it_is_over_and_the_run_at_its_end():
    told = []
    run = make_run(tell=lambda kind, message: told.append((kind, message)))
    for sigma, density in ((1.0, None), (0.75, 0.2), (0.75, 0.4), (0.6, 0.3), (0.5, 0.5)):  # 0.6: between two steps
        run.begin_forward(options(sigma))
        run.count_dense(Reason("dense_blocks", "0"), layer=0)
        if density is None:
            run.count_dense(Reason("start_percent", "early"), layer=2)
        else:
            run.count_sparse([stats(density, temporal=[0, 1])], layer=2)
    assert [(kind, message["step"]) for kind, message in told] == [("step", 0), ("step", 1)]
    report = run.close()
    assert [kind for kind, _ in told] == ["step", "step", "step", "run"] and told[-1][1] is report
    first, second, third = (message for kind, message in told if kind == "step")
    assert first["density"] == [None, None, None] and first["reasons"] == {"dense_blocks": "0", "start_percent": "early"}
    assert second["density"] == [None, None, pytest.approx(0.3)] and second["reasons"] == {"dense_blocks": "0"}
    assert (second["temporal"], second["kept_fraction"], second["dense_heads"], second["steps"]) == (0.5, None, 0.0, 4)
    assert second["line"].startswith("Step 2 of 4, sparse, density 0.30")
    assert third["step"] == 2 and third["error"] == [None, None, pytest.approx(0.05)]
    keys = ("step", "density", "error", "temporal", "kept_fraction", "alike", "dense_heads", "reasons")
    assert report["steps"] == [{key: step[key] for key in keys} for step in (first, second, third)]
    assert report["run"] == first["run"] < make_run().report()["run"]


@pytest.mark.parametrize("inherited, broken", [(2, 0), (0, 1), (1, 3)])
def test_nan_is_counted_by_where_it_comes_from_and_leaves_the_figures_readable(inherited, broken):
    run = make_run()
    run.begin_forward(options(1.0))
    for exact_finite, calls in ((False, inherited), (True, broken)):
        for _ in range(calls):
            run.count_sparse([stats(0.2, error=math.nan, finite=False, exact_finite=exact_finite)], layer=0)
    run.count_sparse([stats(0.2, error=0.1)], layer=1)
    report = run.close()
    assert (report["not_finite_calls"], report["broken_calls"]) == (inherited + broken, broken)
    assert report["error"] == pytest.approx(0.1) and report["steps"][0]["error"] == [None, pytest.approx(0.1)]
    json.dumps(report, allow_nan=False)


def test_traffic_of_a_long_run_stays_small():
    """50 steps of 40 layers, cond and uncond apart: under 200 messages and 200 kB."""
    sent = []
    run = make_run(tell=lambda kind, message: sent.append(json.dumps(message)))
    schedule = torch.linspace(1, 0, 51).tolist()
    for step, sigma in enumerate(schedule[:-1]):
        for branch in range(2):
            run.begin_forward(options(sigma, schedule))
            for layer in range(40):
                if layer == 0 or step < 10:
                    run.count_dense(Reason("start_percent", "sparse from 20% of the schedule on"), layer)
                else:
                    run.count_sparse([stats(0.1234567 + 0.001 * layer, error=0.0123456 * (1 + branch))], layer)
    run.close()
    assert len(sent) == 51 and sum(map(len, sent)) < 200_000


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_time_is_told_by_kind_but_not_where_a_clock_would_time_the_launch_alone(device):
    run = make_run()
    for name in ("cpu", device, "cpu", device):
        with run.record.timed("sparse", torch.device(name)):
            torch.ones(10).sum()
    report = run.report()
    assert report["attention"].keys() == {"sparse"} and report["untimed"] == [device]
    assert report["attention"]["sparse"]["calls"] == 2 and report["attention"]["sparse"]["seconds"] >= 0


def test_each_device_has_its_own_share_until_the_run_ends():
    budgets = {"cpu": (1000, 64), "meta": (2000, 128)}
    run = Run(Settings(SVGConfig()), 1.0, 0.0, lambda device: budgets[device.type])
    cpu, meta = (run.on(torch.device(name)) for name in budgets)
    assert run.on(torch.device("cpu")) is cpu and (cpu.state.budget_bytes, meta.state.budget_bytes) == (1000, 2000)
    run.halve_workspace(torch.device("meta"))
    assert (cpu.workspace_bytes, meta.workspace_bytes) == (64, 64)
    for share in (cpu, meta):
        share.state.once("name", lambda share=share: share)
    assert [share.state.get("name") for share in (cpu, meta)] == [cpu, meta]
    run.close()
    assert len(cpu.state) == len(meta.state) == 0


@pytest.mark.parametrize(
    "schedule, sigmas, steps",
    [
        ([1.0, 0.75, 0.5, 0.25, 0.0], [1.0, 1.0, 0.75, 0.6, 0.5, 0.25], [0, 0, 1, 1, 2, 3]),
        ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.25, 0.4, 0.5, 0.75], [0, 0, 1, 1, 2, 3]),  # unsampling
        ([1.0, 0.5, 1.0, 0.5, 0.0], [1.0, 0.5, 0.5, 1.0, 0.7, 0.5], [0, 1, 1, 2, 2, 3]),  # back to noise in one schedule
        ([1.0, 0.75, 0.5, 0.25, 0.0], [1.0, 0.75, 0.9, 0.5], [0, 1, 1, 2]),  # noise added within a step
        ([0.5, 0.0], [0.5, 0.3, 0.0], [0, 0, 0]),
        (None, [1.0, 1.0, 0.7, 0.3], [0, 0, 1, 2]),  # counted
    ],
    ids=["falling", "rising", "restart", "noised", "one step", "no schedule"],
)
def test_steps_are_numbered_as_they_are_executed(schedule, sigmas, steps):
    told = []
    run = make_run(tell=lambda kind, message: told.append((message["step"], message["steps"])) if kind == "step" else None)
    seen, total = [], schedule and len(schedule) - 1
    for sigma in sigmas:
        run.begin_forward(options(sigma, schedule))
        run.count_dense(Reason("dense_blocks", "0"), layer=0)
        seen.append(max(step["step"] for step in run.report()["steps"]))
    run.close()
    assert seen == steps and told == [(step, total) for step in sorted(set(steps))]


def test_two_devices_threads_tell_every_step_once_and_count_every_call():
    """A thousand steps, each of two passes at once as the host's threads run them, switched as often as can be."""
    told, failed = [], []
    run = make_run(tell=lambda kind, message: told.append((kind, message)))
    schedule = torch.linspace(1, 0, 1001).tolist()
    together = threading.Barrier(2)

    def passes(device):
        try:
            for sigma in schedule[:-1]:
                together.wait()
                run.begin_forward(options(sigma, schedule))
                run.on(device).state.once(sigma, lambda sigma=sigma: sigma)
                with run.record.timed("sparse", torch.device("cpu")):
                    run.count_sparse([stats(0.25)], layer=1)
                run.count_dense(Reason("dense_blocks", "0"), layer=0)
                run.halve_workspace(device)
                together.wait()  # the host joins the threads of a step
        except Exception as error:
            failed.append(error)
            together.abort()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=passes, args=(torch.device(name),)) for name in ("cpu", "meta")]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    finally:
        sys.setswitchinterval(interval)
    report = run.close()
    assert not failed
    assert [message["step"] for kind, message in told if kind == "step"] == list(range(1000))
    assert report["sparse_calls"] == 2000 and report["calls"] == 4000 and report["attention"]["sparse"]["calls"] == 2000
    assert all(step["density"] == [None, 0.25] for step in report["steps"])
