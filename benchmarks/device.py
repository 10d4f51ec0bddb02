"""The device at hand: what it is, its clock and its memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial

import pack  # noqa: F401, a rehearsal changes it
import torch

REHEARSING = os.environ.get("REHEARSE") == "1"
gpu = torch.cuda  # all that the scripts want of it they call here
if REHEARSING:
    import rehearsal

    gpu = rehearsal.install()


def on_gpu(device: torch.device | str) -> bool:
    """Whether times and memory are a GPU's; a rehearsal takes its CPU for one."""
    return REHEARSING or torch.device(device).type == "cuda"


def tried(builders: dict[str, Callable]) -> tuple[dict, dict[str, dict]]:
    """What each builder returns, and a row's {"missing": reason} for each that fails; the others go on."""
    made, missing = {}, {}
    for name, build in builders.items():
        try:
            made[name] = build()
        except Exception as error:  # whatever a driver, compiler or peer may raise is a line of the table
            missing[name] = {"missing": reason(error)}
    return made, missing


def attempt(function: Callable, *args):
    """What it returns, or {"missing": reason}."""
    made, missing = tried({"": partial(function, *args)})
    return (made | missing)[""]


def reason(error: Exception) -> str:
    """An error in one short line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def interleaved(providers: dict[str, Callable], device: torch.device | str, repeats: int) -> dict[str, dict]:
    """Times the providers in turns, so that all meet the same clocks; ms (median), ms_p20, ms_p80, peak_bytes each.

    One that fails has "missing", the reason, instead, and the others go on.
    """
    peaks, missing = tried({name: partial(_peak_bytes, run, device) for name, run in providers.items()})
    turns = [{name: milliseconds(providers[name], device) for name in peaks} for _ in range(repeats)]
    measured = {}
    for name, peak_bytes in peaks.items():
        times = sorted(turn[name] for turn in turns)
        p20, p80 = (times[round(share * (repeats - 1))] for share in (0.2, 0.8))
        measured[name] = {"ms": statistics.median(times), "ms_p20": p20, "ms_p80": p80, "peak_bytes": peak_bytes}
    return {name: measured.get(name) or missing[name] for name in providers}


def milliseconds(function: Callable, device: torch.device | str) -> float:
    """One run, on the device's own clock."""
    if not on_gpu(device):
        begin = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - begin)
    begin, end = (gpu.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    gpu.synchronize()
    return begin.elapsed_time(end)


def _peak_bytes(function: Callable, device: torch.device | str) -> int | None:
    """Memory that the call needs beyond what is allocated before it; also its warm-up. None on a CPU."""
    function()
    if not on_gpu(device):
        return None
    gpu.synchronize()
    gpu.reset_peak_memory_stats()
    before = gpu.memory_allocated()
    function()
    gpu.synchronize()
    return gpu.max_memory_allocated() - before


def gpu_query(*names: str) -> list[str | None]:
    """What nvidia-smi says of the GPU, by the names of its --query-gpu; None each where it does not answer."""
    answer = output_of("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits")
    return answer.splitlines()[0].split(", ") if answer else [None] * len(names)


def output_of(*command) -> str | None:
    """What a program prints, None if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
