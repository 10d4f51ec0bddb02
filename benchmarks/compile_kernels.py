"""Does every kernel compile for every GPU that is supported: no spills, within shared memory, on the matrix units, prefetching?

Needs no GPU: calls on the meta device launch what they would on one, Triton compiles it ahead of time and ships the
assembler. Exits with 1 if a row is not ok. On NVIDIA's GPUs a kernel in 16 bit must have a tile on its way while it
computes another (`prefetch` at least 1), and none of its matrix instructions may wait for the one before (`serialised`).
One exception: the assembler in Triton 3.3 (ptxas 12.4) serialises every wgmma of sm_90 that it meets in a loop, whatever
the source; newer ones do not.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from unittest.mock import patch

import machine_code
import torch
import triton
from calls import call_options, require_kernels, svg2_config
from device import reason
from measure import Rows
from shapes import Shape
from sparse_videogen.kernels import backend, tile_configs
from sparse_videogen.kernels.gather_attention import gather_attention, reference
from sparse_videogen.svg_core import SVGConfig, attention, sparse_attention
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

SERIALISES = "3.3."  # Triton whose assembler serialises wgmma
COLUMNS = (
    *("kernel", "target", "dtype", "head_dim", "variant", "config", "registers", "spill_bytes", "shared_bytes"),
    *("shared_limit", "matrix_op", "prefetch", "serialised", "ok", "error"),
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
HEAD_DIMS = (64, 128)
# Kernels that live on matrix instructions, and have a config in the table.
MATRIX = ("gather_attention", "assign", "sample_rows")
VARIANT = r"TAIL|KEYS|RESUME|WITH_LSE|ROWS|HAS_\w+"  # constexprs that tell the variants of a kernel apart
MATRIX_OPS = {  # in the assembly of the target
    "wgmma": r"\bwgmma\.mma_async",
    "tcgen05": r"\btcgen05\.mma",
    "mma": r"\bmma\.sync",
    "mfma": r"\bv_mfma",
    "wmma": r"\bv_wmma",
}


@dataclass(frozen=True)
class Target:
    """A GPU architecture by its name in the config table: shared memory, matrix instructions, threads that run as one.

    Stands in for Triton's driver of such a GPU.
    """

    arch: str
    shared_kib: int
    matrix_op: str
    warp_size: int = 32

    @property
    def nvidia(self) -> bool:
        return not self.arch.startswith("gfx")

    def get_current_target(self) -> GPUTarget:
        number = int(self.arch.replace(".", "")) if self.nvidia else self.arch
        return GPUTarget("cuda" if self.nvidia else "hip", number, self.warp_size)

    def get_current_device(self) -> str:
        return self.arch

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")


TARGETS = (
    Target("8.0", 163, "mma"),
    Target("8.6", 99, "mma"),
    Target("8.9", 99, "mma"),
    Target("9.0", 227, "wgmma"),
    Target("10.0", 227, "tcgen05"),
    Target("12.0", 99, "mma"),
    Target("gfx942", 64, "mfma", warp_size=64),
    Target("gfx1100", 64, "wmma"),
)


@dataclass(frozen=True)
class Job:
    """What is compiled in one process: all that calls of a dtype and head_dim launch on a target.

    Attributes:
        ops: only these, all if there are none.
        config: for every op that has one, by its short name, or None for the table's.
    """

    target: Target
    dtype: str
    head_dim: int
    ops: list[str]
    config: str | None


def rows_of(job: Job) -> list[dict]:
    """A row a kernel and variant; of one that calls launch with several element types the last, or one that is not ok."""
    driver.set_active(job.target)
    rows, seen, config_for, compile_kernel = {}, set(), tile_configs.config_for, JITFunction.run

    def compile_only(kernel, *args, grid, warmup, **options):
        row = identity(kernel, options, job)
        key = row["kernel"], row["variant"]
        launch = *key, *(getattr(x, "dtype", None) for x in args)
        if launch not in seen and is_wanted(kernel, job):
            seen.add(launch)
            try:
                row |= machine(compile_kernel(kernel, *args, grid=grid, warmup=True, **options), row, job)
            except Exception as error:  # a compiler's failure is what this script is here to report
                row |= {"ok": False, "error": reason(error)}
            if key not in rows or rows[key]["ok"]:
                rows[key] = row

    def given_config(*key):
        return tile_configs.TileConfig.parse(job.config) if job.config else config_for(*key)

    def architecture(device: torch.device) -> str:
        return job.target.arch if device.type == "meta" else device.type

    with ExitStack() as patched:
        for owner, name, stand_in in (
            (JITFunction, "run", compile_only),
            (backend, "triton_obstacle", lambda device: None),
            (backend, "architecture", architecture),
            (tile_configs, "architecture", architecture),
            (tile_configs, "config_for", given_config),
            (reference, "gather_attention", lambda *args: None),  # where there is no config; it would read what is on no device
        ):
            patched.enter_context(patch.object(owner, name, stand_in))
        call_all(job)
    require_kernels()
    return list(rows.values())


def call_all(job: Job) -> None:
    """Calls with every kernel in every variant."""
    shape = Shape(2, job.head_dim, 4, 12, 16, text=7, q_clusters=16, k_clusters=40)
    size = (1, shape.tokens, shape.heads, shape.head_dim)
    q, k, v = (torch.empty(size, dtype=DTYPES[job.dtype], device="meta").transpose(1, 2) for _ in range(3))

    def with_lse(q, k, v, plan, **options):
        """What no call asks for: the log-sum-exp beside the whole tail."""
        if plan.tail is not None and plan.tail.k_variance is not None:
            gather_attention(q, k, v, plan, **options, lse=torch.empty(q.shape[:3], device="meta"))
        return gather_attention(q, k, v, plan, **options)

    with patch.object(attention, "gather_attention", with_lse):
        for config in (SVGConfig(), *(svg2_config(shape, tail=tail) for tail in ("off", "zero_order", "second_order"))):
            sparse_attention(q, k, v, **call_options(config, shape), measure_error=True, backend="triton")


def is_wanted(kernel: JITFunction, job: Job) -> bool:
    """Whether it belongs to the ops asked for; kernels that do not depend on head_dim and dtype are compiled once."""
    op = kernel.__module__.split(".")[-2]  # its folder under kernels/
    once = (job.dtype, job.head_dim) == ("fp32", 128)
    return op in (job.ops or [op]) and (once or "HEAD_DIM" in kernel.arg_names)


def identity(kernel: JITFunction, options: dict, job: Job) -> dict:
    """What a row is about."""
    name, arch = kernel.__name__.strip("_").removesuffix("_kernel"), job.target.arch
    variant = {key: on for key, on in options.items() if re.fullmatch(VARIANT, key) and on is not False}
    return {
        "op": "compiled",
        "triton": triton.__version__,
        "kernel": name,
        "target": arch,
        "dtype": job.dtype,
        "head_dim": job.head_dim,
        "variant": " ".join(key if on is True else f"{key}={on}" for key, on in variant.items()),
        "config": str(tile_configs.config_for(name, job.head_dim, arch, job.dtype == "fp32")) if name in MATRIX else "-",
    }


def machine(kernel, row: dict, job: Job) -> dict:
    """What a compiled kernel needs and does: of loops prefetch depth, whether wgmma is serialised, and instructions.

    It is ok without spills, within shared memory, and in 16 bit on the matrix units, with copies ahead and products side
    by side.
    """
    target, matrix, in_16_bit = job.target, row["kernel"] in MATRIX, job.dtype != "fp32"
    assembly = kernel.asm["ptx" if target.nvidia else "amdgcn"]
    registers, spill_bytes = machine_code.resources(kernel.asm["cubin"]) if target.nvidia else _amd_usage(assembly)
    found = {
        "registers": registers,
        "spill_bytes": spill_bytes,
        "shared_bytes": kernel.metadata.shared,
        "shared_limit": target.shared_kib << 10,
        "matrix_op": next((name for name, pattern in MATRIX_OPS.items() if re.search(pattern, assembly)), "none"),
    }
    if target.nvidia and matrix:
        arch = target.get_current_target().arch
        found["prefetch"] = machine_code.prefetch(assembly) or 0
        found["serialised"] = target.matrix_op == "wgmma" and machine_code.serialised(assembly, f"sm_{arch}a")
        found["loops"] = machine_code.turns(kernel.asm["cubin"])
    found["ok"] = (
        spill_bytes == 0
        and found["shared_bytes"] <= found["shared_limit"]
        and (not matrix or not in_16_bit or found["matrix_op"] == target.matrix_op)
        and (not in_16_bit or found.get("prefetch", 1) >= 1)
        and (not found.get("serialised") or triton.__version__.startswith(SERIALISES))
    )
    return found


def _amd_usage(assembly: str) -> tuple[int, int]:
    registers, spilled = (re.search(rf"\.{name}:\s+(\d+)", assembly)[1] for name in ("vgpr_count", "vgpr_spill_count"))
    return int(registers), 4 * int(spilled)


def _stand_in_for_linker() -> None:
    """Older Triton wants ROCm's linker for AMD's last step; only the assembly before it is read here."""
    if "TRITON_HIP_LLD_PATH" in os.environ or Path("/opt/rocm/llvm/bin/ld.lld").exists():
        return
    script = Path(tempfile.mkdtemp()) / "ld.lld"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n')
    script.chmod(0o755)
    os.environ["TRITON_HIP_LLD_PATH"] = str(script)


def main() -> None:
    """Prints a row a kernel, target, dtype, head_dim and variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the rows to, one JSON line each")
    parser.add_argument("--kernels", nargs="+", default=[], help="only these ops")
    arches = [target.arch for target in TARGETS]
    parser.add_argument("--targets", nargs="+", default=arches, help="only these architectures, such as 9.0 or gfx942")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), help="only these element types")
    configs = "tile configs to try in place of the table's, such as 128x32w8s5t32d128a"
    parser.add_argument("--configs", nargs="+", default=[None], help=configs)
    arguments = parser.parse_args()
    if arguments.json:
        arguments.json.unlink(missing_ok=True)
    _stand_in_for_linker()
    targets = [target for target in TARGETS if target.arch in arguments.targets]
    jobs = product(targets, arguments.dtypes, HEAD_DIMS, [arguments.kernels], arguments.configs)
    table, results = Rows(COLUMNS, arguments.json, None), []
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for rows in pool.map(rows_of, (Job(*job) for job in jobs)):
            for row in rows:
                table.add(row)
                results.append(row["ok"])
    print(f"{sum(results)} of {len(results)} ok")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
