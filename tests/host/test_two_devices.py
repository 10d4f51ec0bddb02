"""The host's own two devices in two threads, a conditioning each, both of them the CPU here."""

from __future__ import annotations

import pytest
from in_process import run_in_host

SCRIPT = """
import comfy.model_management, threading
from importlib.util import find_spec
from sparse_videogen.nodes import host, overrides, pairing
from sparse_videogen.nodes.patch import reports_of

told = []
host.tell_page = lambda kind, message: told.append((kind, message.get("step")))
threads = set()
attend = overrides.attend
def watched(*args):
    threads.add(threading.current_thread().name)
    return attend(*args)
overrides.attend = watched

def on_two(model):
    model = model.clone()
    another = model.deepclone_multigpu(new_load_device=torch.device("cpu", 1))
    another.is_multigpu_base_clone = True
    model.set_additional_models("multigpu", [another])
    model.match_multigpu_clones()
    return model

if find_spec("comfy.multigpu"):
    comfy.model_management.set_torch_device = lambda device: None
    for method in CONFIGS:
        one = patch(load(), method, start_percent=0.3)
        pairs = pairing.Turn.next
        pairing.Turn.next = lambda turn, conds: pairing.Turn(turn.number + 1)  # no clusters shared, as where each has a device
        expected = sample(one)
        pairing.Turn.next = pairs
        orders = {"node first": lambda: on_two(patch(load(), method, start_percent=0.3)),
                  "node last": lambda: patch(on_two(load()), method, start_percent=0.3)}
        (alone,) = reports_of(one).values()
        for order, make in orders.items():
            said.clear(), told.clear(), threads.clear()
            model = make()
            out = sample(model)
            (report,) = reports_of(model).values()
            figures = {name: [alone[name], report[name]] for name in ("density", "error", "dense_reasons")}
            figures |= {"difference": (out - expected).abs().max().item(), "calls": report["calls"]}
            tell(f"{order}, {method}", told=list(told), threads=len(threads), **figures)
"""


def test_a_run_on_two_devices_is_one_run(host, tmp_path):
    facts = run_in_host(host.path, SCRIPT, tmp_path)
    if not facts:
        pytest.skip(f"ComfyUI {host.version} keeps a model on one device")
    assert len(facts) == 4
    for told in facts.values():
        assert told["threads"] == 2 and told["difference"] < 1e-4
        assert told["told"] == [["step", 0], ["step", 1], ["step", 2], ["step", 3], ["run", None]]
        assert told["calls"] == 2 * 4 * 3  # cond and uncond apart
        for name in ("density", "error"):
            assert told[name][0] == pytest.approx(told[name][1], rel=1e-3)
        assert {label: 2 * calls for label, calls in told["dense_reasons"][0].items()} == told["dense_reasons"][1]
        assert sum("calls sparse" in line for line in told["said"]) == 1
