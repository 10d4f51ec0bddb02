"""Loads the pack as `sparse_videogen`, never through sys.path: the checkout's root would hide ComfyUI's modules."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

# Threads of one small product wait for each other: on a busy machine ten times longer than the product takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]

os.environ["SPARSE_VIDEOGEN_DEBUG"] = "1"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton kernels run on the CPU; must be set before triton is imported

from load_pack import load_pack  # noqa: E402

load_pack()


def pytest_report_header() -> list[str]:
    """Which ComfyUI the host tests run against."""
    from host_env import find_hosts, host_version

    found = [f"ComfyUI {host_version(path)} at {path}" for path in find_hosts()]
    return found or ["no ComfyUI found: the tests in tests/host/ are skipped; set COMFYUI_PATH to run them"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items) -> None:
    """Among several processes: tests of one server in one of them, as well as tests that share a fixture of their module."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        server = [(name, parameters[name]) for name in ("host", "old_host", "tab") if name in parameters]
        shared = any(made[-1].scope == "module" for made in item._fixtureinfo.name2fixturedefs.values())
        if server or shared:
            item.add_marker(pytest.mark.xdist_group(str(server or item.path)))


def pytest_terminal_summary(terminalreporter) -> None:
    """How many tests were skipped, and why."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", []))
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} skipped: {reason}")
