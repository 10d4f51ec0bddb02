"""Processes that work together as the ranks of a torch.distributed group, on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch.distributed
from load_pack import ROOT

ENGINES = ROOT / ".venv" / "engines"  # Ray, xFuser and yunchang, put there by test.sh
NO_ENGINES = f"Ray, xFuser and yunchang are not in {ENGINES}: run ./test.sh"


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    """Of a process that finds the engines; Triton's interpreter, which the tests themselves run, would stand in for a GPU."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"PYTHONPATH": str(ENGINES), "OMP_NUM_THREADS": "1"}
    return env | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"} | more  # nothing is sent, nothing left at home


def end() -> None:
    """Ends a rank when all have come here; torch's threads for gloo do not always survive an interpreter that ends."""
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


def run_ranks(ranks: int, command: Callable[[int], Sequence], folder: Path, timeout_s: float, cwd=None, **more: str) -> None:
    """Runs `command(rank)` of each rank; the environment has what torch.distributed asks for, and `more`.

    Raises:
        AssertionError: one failed, with the end of what each wrote.
        TimeoutError: they wait for each other; with the same.
    """
    env = environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORLD_SIZE=str(ranks), **more)
    outputs, processes = [folder / f"rank{rank}.txt" for rank in range(ranks)], []
    for rank, path in enumerate(outputs):
        with open(path, "w") as output:
            own = {"cwd": cwd, "env": env | {"RANK": str(rank)}, "stdout": output, "stderr": subprocess.STDOUT}
            processes.append(subprocess.Popen([str(part) for part in command(rank)], **own))
    deadline, late = time.monotonic() + timeout_s, False
    try:
        codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in processes]
    except subprocess.TimeoutExpired:
        late = True
    finally:
        for process in processes:
            process.kill()
    said = "\n".join(f"{path.name}: {path.read_text()[-4000:]}" for path in outputs)
    if late:
        raise TimeoutError(f"the ranks did not end in {timeout_s} s\n{said}")
    assert codes == [0] * ranks, said
