"""A short soak.py: so few prompts that it says nothing about memory, with an interrupt and both out-of-memory runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import soak


def test_a_short_soak_finds_nothing_wrong(host):
    command, environment = [sys.executable, soak.__file__, "--prompts", "12"], os.environ | {"COMFYUI_PATH": str(host.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ComfyUI {host.version}, 12 prompts" in done.stdout and "nothing wrong" in done.stdout
    assert "\ninterrupt: 1\nout_of_memory: 2\n" in done.stdout
    assert int(re.search(r"(\d+) sparse calls", done.stdout)[1]) > 0


def test_what_is_wrong_is_found(host):
    run, case = soak.Soak(host), soak.Case("wan21_t2v", "SVGAttention", {"steps": 2})
    run.run(1, case)
    assert run.failures == [] and run.judge(1) == [] and run.resident[0] > 100 << 20
    run.run(2, replace(case, options={"steps": 3}, twin=case))
    assert len(run.failures) == 1 and run.failures[0].endswith("differs from the first of its kind")
    run.run(3, replace(case, inputs={"sparsity": 5.0}))
    assert len(run.failures) == 2 and "sparsity" in run.failures[1]
    run.tracebacks = 1
    run.resident = 60 * [1000] + 10 * [1021]
    wrong = run.judge(200)[2:]
    assert [line.split()[0] for line in wrong] == ["time", "0", "resident"]
    assert "time was up after 70 of 200 prompts" in wrong and "resident memory grew by 2.1%, over 2%" in wrong


def test_the_plan():
    families = ["wan21_t2v", "hunyuan_t2v", "wan_vace"]
    cases = soak.make_plan(200, families)
    assert cases == soak.make_plan(200, families) and len(cases) == 200
    assert {case.family for case in cases[:3]} == set(families)
    assert sum(case.fault == "interrupt" for case in cases) == 13
    assert [case.method for case in cases if case.fault == "out_of_memory"] == ["SVGAttention", "SVG2Attention"]
    keys = [case.key() for case in cases if case.fault != "interrupt"]
    assert all(keys.count(key) > 1 for key in keys)
