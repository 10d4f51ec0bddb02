"""What all benchmarks share: the pack, inputs, timing, and one JSON line a row."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "demo"))

from load_pack import load_pack  # noqa: E402

load_pack()

from scene import video_qkv  # noqa: E402
from shapes import CPU_SHAPES, DENSITIES, GPU_SHAPES, SHAPES, Shape  # noqa: E402
from sparse_videogen.kernels import choose_backend  # noqa: E402
from sparse_videogen.svg_core import VideoLayout, attention  # noqa: E402


def parse_arguments(description: str) -> argparse.Namespace:
    """--device, --shapes, --densities, --dtype, --repeats and --json; shapes and dtype default by device."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=None)
    parser.add_argument("--densities", nargs="+", type=float, default=None)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=None)
    parser.add_argument("--repeats", type=int, default=None, help="timed runs of each provider")
    parser.add_argument("--json", type=Path, default=None, help="file to append one JSON line a row to")
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    arguments.shapes = arguments.shapes or (CPU_SHAPES if on_cpu else GPU_SHAPES)
    arguments.densities = arguments.densities or ((0.25,) if on_cpu else DENSITIES)
    arguments.dtype = getattr(torch, arguments.dtype or ("float32" if on_cpu else "bfloat16"))
    arguments.repeats = arguments.repeats or (3 if on_cpu else 10)
    return arguments


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


def interleaved(providers: dict[str, Callable], device: str, repeats: int) -> dict[str, dict]:
    """Times the providers in turns, so that all meet the same clocks; ms (median), ms_p20, ms_p80, peak_bytes each."""
    times = {name: [] for name in providers}
    peaks = {}
    for name, function in providers.items():
        peaks[name] = _peak_bytes(function, device)
    for _ in range(repeats):
        for name, function in providers.items():
            times[name].append(_milliseconds(function, device))
    return {
        name: {
            "ms": statistics.median(values),
            "ms_p20": _percentile(values, 0.2),
            "ms_p80": _percentile(values, 0.8),
            "peak_bytes": peaks[name],
        }
        for name, values in times.items()
    }


def _milliseconds(function: Callable, device: str) -> float:
    if device == "cpu":
        begin = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - begin)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def _peak_bytes(function: Callable, device: str) -> int | None:
    """Memory that the call needs beyond what is allocated before it; also its warm-up. None on a CPU."""
    if device == "cpu":
        function()
        return None
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _percentile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, round(share * (len(ranked) - 1)))]


def environment(device: str) -> dict:
    """Device, driver and versions, as each row carries them."""
    triton = sys.modules.get("triton")
    facts = {"device": "cpu", "driver": None}
    if device != "cpu":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts["device"] = torch.cuda.get_device_name()
        facts["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip() or None
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        **facts,
        "torch": torch.__version__,
        "triton": getattr(triton, "__version__", None),
        "commit": commit.stdout.strip() or None,
    }


class Rows:
    """Prints rows as a table, and appends them to a file as JSON lines."""

    def __init__(self, columns: tuple[str, ...], file: Path | None, device: str):
        self.columns, self.file, self.environment = columns, file, environment(device)
        print("".join(f"{column:>{_width(column)}}" for column in columns), flush=True)

    def add(self, row: dict) -> None:
        """One row; columns that it lacks stay empty."""
        print("".join(f"{_text(row.get(column)):>{_width(column)}}" for column in self.columns), flush=True)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a") as lines:
                lines.write(json.dumps({**row, **self.environment}) + "\n")


def _width(column: str) -> int:
    return 26 if column in ("provider", "missing") else 14


def _text(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
