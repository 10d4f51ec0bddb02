"""Loads the pack as `sparse_videogen`, never through sys.path: the checkout's root would hide ComfyUI's modules."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path

# Threads of one small product wait for each other: on a busy machine ten times longer than the product takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LONG = ("test_compile_kernels.py", "test_run_gpu.py")
SERVER = re.compile(r"^tests/(host|web)/.*\[.*\b(\d+\.\d+\.\d+(-classic|-vue)?)\b")
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Among several processes: what shares a server in one of them, as well as what shares a file; what is long on its own."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            if file.endswith(LONG):
                return nodeid
            server = SERVER.match(nodeid)
            return " ".join(server.group(1, 2)) if server else file

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter) -> None:
    """How many tests were skipped, and why."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", []))
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} skipped: {reason}")
