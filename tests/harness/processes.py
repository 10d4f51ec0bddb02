"""Processes that work together as the ranks of a torch.distributed group, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch.distributed
from load_pack import ROOT

ENGINES = ROOT / ".venv" / "engines"  # Ray, xFuser and yunchang, put there by test.sh
NO_ENGINES = f"Ray, xFuser and yunchang are not in {ENGINES}: run ./test.sh"


def environment(**more: str) -> dict[str, str]:
    """Of a process that finds the engines; Triton's interpreter, which the tests themselves run, would stand in for a GPU."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"PYTHONPATH": str(ENGINES), "OMP_NUM_THREADS": "1"}
    return env | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"} | more  # nothing is sent, nothing left at home


def meet() -> None:
    """Makes this process a rank of the group; they find each other by a file, since a port may be taken before it is used."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks, init_method=os.environ["MEETING"])


def end() -> None:
    """Ends a rank when all have come here; torch's threads for gloo do not always survive an interpreter that ends."""
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


def run_ranks(ranks: int, command: Callable[[int], Sequence], folder: Path, timeout_s: float, cwd=None, **more: str) -> None:
    """Runs `command(rank)` of each rank, which is to `meet`; `more` is its environment.

    Raises:
        AssertionError: one failed, with the end of what each wrote.
        TimeoutError: they wait for each other; with the same.
    """
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    env = environment(MEETING=meeting.as_uri(), WORLD_SIZE=str(ranks), **more)
    outputs, processes = [folder / f"rank{rank}.txt" for rank in range(ranks)], []
    for rank, path in enumerate(outputs):
        with open(path, "w") as output:
            own = {"cwd": cwd, "env": env | {"RANK": str(rank)}, "stdout": output, "stderr": subprocess.STDOUT}
            processes.append(subprocess.Popen([str(part) for part in command(rank)], **own))
    deadline, codes = time.monotonic() + timeout_s, [None]
    try:
        while None in codes and not any(codes) and time.monotonic() < deadline:  # who waits for one that failed waits for ever
            time.sleep(0.05)
            codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = "\n".join(f"{path.name}: {path.read_text()[-4000:]}" for path in outputs)
    if None in codes and not any(codes):
        raise TimeoutError(f"the ranks did not end in {timeout_s} s\n{said}")
    assert codes == [0] * ranks, said
