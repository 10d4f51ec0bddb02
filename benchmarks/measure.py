"""What all benchmarks share: the pack, inputs, timing, and one JSON line a row."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "tests" / "harness")]

from load_pack import load_pack  # noqa: E402

load_pack()

from scene import video_qkv  # noqa: E402
from shapes import CPU_SHAPES, DENSITIES, GPU_SHAPES, SHAPES, Shape  # noqa: E402
from sparse_videogen.kernels import choose_backend  # noqa: E402
from sparse_videogen.kernels.compat import triton_version  # noqa: E402
from sparse_videogen.svg_core import VideoLayout, attention  # noqa: E402

REHEARSING = os.environ.get("REHEARSE") == "1"
gpu = torch.cuda  # all that the scripts want of it they call here
if REHEARSING:
    import rehearsal

    gpu = rehearsal.install()


def on_gpu(device: torch.device | str) -> bool:
    """Whether times and memory are a GPU's; a rehearsal takes its CPU for one."""
    return REHEARSING or torch.device(device).type == "cuda"


def parse_arguments(description: str, defaults: dict | None = None, **more: dict) -> argparse.Namespace:
    """--device, --shapes, --densities, --dtype, --repeats, --seconds and --json; shapes and dtype default by device.

    Args:
        description: of the script, in its help.
        defaults: by name, where a script has others.
        more: further options by name, as `add_argument` takes them.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() and not REHEARSING else "cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=None)
    parser.add_argument("--densities", nargs="+", type=float, default=None)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=None)
    parser.add_argument("--repeats", type=int, default=None, help="timed runs of each provider")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing new after so long")
    parser.add_argument("--json", type=Path, default=None, help="file to append one JSON line a row to")
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    parser.set_defaults(**(defaults or {}))
    arguments = parser.parse_args()
    on_cpu = not on_gpu(arguments.device)
    arguments.shapes = arguments.shapes or (CPU_SHAPES if on_cpu else GPU_SHAPES)
    arguments.densities = arguments.densities or ((0.25,) if on_cpu else DENSITIES)
    arguments.dtype = getattr(torch, arguments.dtype or ("float32" if on_cpu else "bfloat16"))
    arguments.repeats = arguments.repeats or (3 if on_cpu else 10)
    arguments.end = time.monotonic() + arguments.seconds
    return arguments


def out_of_time(arguments: argparse.Namespace) -> bool:
    """Whether --seconds are over."""
    return time.monotonic() > arguments.end


def layout_of(shape: Shape) -> VideoLayout:
    """The shape's token layout."""
    return VideoLayout(shape.frames, shape.height, shape.width, text_after=shape.text)


def inputs(shape: Shape, device: str, dtype: torch.dtype):
    """q, k, v [1, heads, tokens, head_dim] of the synthetic scene, in the host's memory order (B, N, H * D)."""
    q, k, v = video_qkv(
        shape.frames,
        shape.height,
        shape.width,
        heads=min(shape.heads, 4),
        head_dim=shape.head_dim,
        text=shape.text,
        dtype=dtype,
    )
    repeat = -(-shape.heads // q.shape[1])
    made = (x.to(device).repeat(1, repeat, 1, 1)[:, : shape.heads] for x in (q, k, v))
    return tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in made)


def each_shape(arguments: argparse.Namespace):
    """Yields name, shape, q, k, v of each shape asked for."""
    for name in arguments.shapes:
        yield name, SHAPES[name], *inputs(SHAPES[name], arguments.device, arguments.dtype)


def plan_options(q) -> dict:
    """What `plans` takes beside its inputs, as `sparse_attention` would choose it for q [B, H, N, D]."""
    return {"sm_scale": q.shape[3] ** -0.5, "backend": choose_backend("auto", q.device)}


def use_tiles(block_m: int, block_n: int) -> None:
    """From now on plans have tiles of `block_m` rows, and `computed` counts whole tiles, as a GPU with these would."""
    attention.tile_rows = lambda head_dim, device, dtype: block_m
    attention.computed_blocks = lambda q, backend: (block_m, block_n)


def interleaved(providers: dict[str, Callable], device: torch.device | str, repeats: int) -> dict[str, dict]:
    """Times the providers in turns, so that all meet the same clocks; ms (median), ms_p20, ms_p80, peak_bytes each.

    One that fails has "missing", the reason, instead, and the others go on.
    """
    times, peaks, missing = {}, {}, {}
    for name, function in providers.items():
        try:
            peaks[name] = _peak_bytes(function, device)
            times[name] = []
        except Exception as error:  # a provider that fails is a line of the table
            missing[name] = {"missing": reason(error)}
    for _ in range(repeats):
        for name, values in times.items():
            values.append(milliseconds(providers[name], device))
    measured = {
        name: {
            "ms": statistics.median(values),
            "ms_p20": _percentile(values, 0.2),
            "ms_p80": _percentile(values, 0.8),
            "peak_bytes": peaks[name],
        }
        for name, values in times.items()
    }
    return {name: missing.get(name) or measured[name] for name in providers}


def reason(error: Exception) -> str:
    """An error in one short line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


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


def _percentile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, round(share * (len(ranked) - 1)))]


def environment(device: str) -> dict:
    """Device, driver and versions, as each row carries them."""
    return {
        "device": gpu.get_device_name() if on_gpu(device) else "cpu",
        "driver": gpu_query("driver_version")[0] if on_gpu(device) else None,
        "torch": torch.__version__,
        "triton": "{}.{}".format(*triton_version()) if on_gpu(device) else None,
        "commit": _output("git", "-C", ROOT, "describe", "--always", "--dirty"),
    }


def device_facts(device: str) -> dict:
    """Multiprocessors, L2 and memory in bytes, and what nvidia-smi reads off right now."""
    properties = gpu.get_device_properties(device)
    facts = {
        "sms": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
    }
    readings = {"sm_mhz": "clocks.sm", "most_sm_mhz": "clocks.max.sm", "memory_mhz": "clocks.mem", "watts": "power.draw"}
    readings["celsius"] = "temperature.gpu"
    return facts | dict(zip(readings, gpu_query(*readings.values()), strict=True))


def profiled(function: Callable, device: torch.device | str, trace: Path | None) -> list[tuple[str, int, float]]:
    """Name, launches and ms of each kernel of one call, in no order; a rehearsal counts torch's operators instead."""
    on_cuda = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as seen:
        function()
        gpu.synchronize()
    if trace is not None:
        seen.export_chrome_trace(str(trace))
    kind, field = (DeviceType.CUDA, "self_device_time_total") if on_cuda else (DeviceType.CPU, "self_cpu_time_total")
    return [(x.key, x.count, getattr(x, field) / 1e3) for x in seen.key_averages() if x.device_type == kind]


def gpu_query(*names: str) -> list[str | None]:
    """What nvidia-smi says of the GPU, by the names of its --query-gpu; None each where it does not answer."""
    answer = _output("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits")
    return answer.splitlines()[0].split(", ") if answer else [None] * len(names)


def _output(*command) -> str | None:
    """What a program prints, None if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


class Rows:
    """Prints rows as a table, and appends them to a file as JSON lines."""

    def __init__(self, columns: tuple[str, ...], file: Path | None, device: str):
        self.columns, self.file, self.environment = columns, file, environment(device)
        print(" ".join(f"{column:>{_width(column)}}" for column in columns), flush=True)

    def add(self, row: dict) -> None:
        """One row; columns that it lacks stay empty. Why something is missing stands where its numbers would."""
        shown = [column for column in self.columns if "missing" not in row or column in row]
        text = " ".join(f"{_text(row.get(column)):>{_width(column)}}" for column in shown)
        print(text + ("  missing: " + row["missing"] if "missing" in row else ""), flush=True)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a") as lines:
                lines.write(json.dumps({**row, **self.environment}) + "\n")


def _width(column: str) -> int:
    return 22 if column in ("provider", "part", "config") else max(11, len(column))


def _text(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
