"""What all benchmarks share: their options, inputs at a shape, and rows as a table and as JSON lines."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from device import REHEARSING, gpu, gpu_query, on_gpu, output_of
from pack import ROOT
from scene import video_qkv
from shapes import CPU_SHAPES, DENSITIES, GPU_SHAPES, SHAPES, Shape
from sparse_videogen.kernels.compat import triton_version
from sparse_videogen.svg_core import VideoLayout, audit, call

ON_CPU = {"shapes": CPU_SHAPES, "densities": (0.25,), "repeats": 3}
ON_GPU = {"shapes": GPU_SHAPES, "densities": DENSITIES, "repeats": 10}
WIDE = ("provider", "part", "config", "variant", "content")


def parse_arguments(description: str, defaults: dict | None = None, **more: dict) -> argparse.Namespace:
    """--device, --shapes, --heads, --densities, --repeats, --seconds and --json; some default by device.

    Args:
        description: of the script, in its help.
        defaults: by name, where a script has others.
        more: further options by name, as `add_argument` takes them.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() and not REHEARSING else "cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--heads", type=int, help="of each shape, at most")
    parser.add_argument("--densities", nargs="+", type=float)
    parser.add_argument("--repeats", type=int, help="timed runs of each provider")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing new after so long")
    parser.add_argument("--json", type=Path, help="file to append one JSON line a row to")
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    parser.set_defaults(**(defaults or {}))
    arguments = parser.parse_args()
    for name, value in (ON_GPU if on_gpu(arguments.device) else ON_CPU).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.end = time.monotonic() + arguments.seconds
    return arguments


def out_of_time(arguments: argparse.Namespace) -> bool:
    """Whether --seconds are over."""
    return time.monotonic() > arguments.end


def shapes_of(arguments: argparse.Namespace) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each that was asked for, with as many heads as --heads allows."""
    for name in arguments.shapes:
        heads = SHAPES[name].heads
        yield name, replace(SHAPES[name], heads=min(heads, arguments.heads or heads))


def run(op: str, columns: tuple[str, ...], rows_of: Callable[..., Iterable[dict]], arguments: argparse.Namespace) -> None:
    """Adds the rows of each shape, as `rows_of(shape, arguments)` gives them, to the table and the file."""
    table = Rows(columns, arguments.json, arguments.device)
    for name, shape in shapes_of(arguments):
        for row in rows_of(shape, arguments):
            table.add({"op": op, "shape": name, "tokens": shape.tokens, **row})


def layout_of(shape: Shape) -> VideoLayout:
    """The shape's token layout."""
    return VideoLayout(shape.frames, shape.height, shape.width, text_after=shape.text)


def inputs(shape: Shape, device: str, dtype: torch.dtype | None = None, conditionings: int = 1):
    """q, k, v [conditionings, heads, tokens, head_dim] of the synthetic scene, in the host's memory order (B, N, H * D).

    The dtype is bfloat16 on a GPU and float32 on a CPU if None.
    """
    dtype = dtype or (torch.bfloat16 if on_gpu(device) else torch.float32)
    heads = {"heads": min(shape.heads, 4), "head_dim": shape.head_dim}
    made = video_qkv(shape.frames, shape.height, shape.width, **heads, text=shape.text, dtype=dtype)
    repeat = -(-shape.heads // heads["heads"])
    made = (x.to(device).repeat(conditionings, repeat, 1, 1)[:, : shape.heads] for x in made)
    return tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in made)


def use_tiles(block_m: int, block_n: int) -> None:
    """From now on plans have tiles of `block_m` rows, and `computed` counts whole tiles, as a GPU with these would."""
    call.tile_rows = lambda head_dim, device, dtype: block_m
    audit.computed_blocks = lambda q, backend, precision: (block_m, block_n)


def environment(device: str) -> dict:
    """Device, driver and versions, as each row carries them."""
    return {
        "device": gpu.get_device_name() if on_gpu(device) else "cpu",
        "driver": gpu_query("driver_version")[0] if on_gpu(device) else None,
        "torch": torch.__version__,
        "triton": "{}.{}".format(*triton_version()) if on_gpu(device) else None,
        "commit": output_of("git", "-C", ROOT, "describe", "--always", "--dirty"),
    }


class Rows:
    """Prints rows as a table, and appends them to a file as JSON lines, with the device's environment if there is one."""

    def __init__(self, columns: tuple[str, ...], file: Path | None, device: str | None):
        self.columns, self.file, self.environment = columns, file, environment(device) if device else {}
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
    return 22 if column in WIDE else max(11, len(column))


def _text(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
