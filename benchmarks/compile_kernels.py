"""Does every kernel compile for every GPU that is supported: no spills, within shared memory, on the matrix units, prefetching?

Needs no GPU: Triton compiles ahead of time and ships the assembler. Exits with 1 if a row is not ok. On NVIDIA's GPUs
a kernel in 16 bit must have a tile on its way while it computes another (`prefetch` at least 1), and none of its matrix
instructions may wait for the one before (`serialised`). One exception: the assembler in Triton 3.3 (ptxas 12.4)
serialises every wgmma of sm_90 that it meets in a loop, whatever the source; newer ones do not.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import machine_code
import triton
from device import reason
from kernel_cases import CASES, ELEMENT, FLOATS, TARGETS, Case, Target
from measure import Rows
from sparse_videogen.kernels.tile_configs import NoTileConfig, TileConfig, config_for

SERIALISES = "3.3."  # Triton whose assembler serialises wgmma
COLUMNS = (
    *("kernel", "target", "dtype", "head_dim", "variant", "config", "registers", "spill_bytes", "shared_bytes"),
    *("shared_limit", "matrix_op", "prefetch", "serialised", "ok", "error"),
)


MATRIX_OPS = {  # in the assembly of the target
    "wgmma": r"\bwgmma\.mma_async",
    "tcgen05": r"\btcgen05\.mma",
    "mma": r"\bmma\.sync",
    "mfma": r"\bv_mfma",
    "wmma": r"\bv_wmma",
}


@dataclass(frozen=True)
class Job:
    """What a row is about; the tile config by its short name, None for a kernel without."""

    case: Case
    target: Target
    head_dim: int
    dtype: str
    config: str | None
    variant: dict


def compiled(job: Job):
    """What Triton makes of it."""
    case, module = job.case, job.case.module
    kernel = getattr(module, case.kernel)
    launch = {"num_warps": case.num_warps, "enable_fp_fusion": True}
    constants = {name: getattr(module, name) for name in kernel.arg_names if hasattr(module, name)}
    constants = {name: value[job.head_dim] if isinstance(value, dict) else value for name, value in constants.items()}
    precision = "tf32" if job.dtype == "fp32" and job.target.nvidia else "ieee"
    constants |= {"HEAD_DIM": job.head_dim, "PRECISION": precision}
    if job.config:
        config = TileConfig.parse(job.config)
        launch, constants = config.launch, constants | config.constexprs
    constants = {name: value for name, value in {**constants, **job.variant}.items() if name in kernel.arg_names}
    aligned = [x for x in kernel.params if x.name in ELEMENT and not x.do_not_specialize]
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else _type(name, job.dtype) for name in kernel.arg_names},
        constexprs=constants,
        attrs={(parameter.num,): [["tt.divisibility", 16]] for parameter in aligned},
    )
    return triton.compile(source, target=job.target.triton, options=launch)


def _type(name: str, dtype: str) -> str:
    if name.endswith("_ptr"):
        return "*" + (dtype if ELEMENT[name] == "x" else ELEMENT[name])
    if name in FLOATS:
        return "fp32"
    return "i64" if name.startswith("stride_") else "i32"


def row_of(job: Job) -> dict:
    """Compiles one kernel for one target; the row that is printed."""
    row = {
        "op": "compiled",
        "triton": triton.__version__,
        "kernel": job.case.kernel.strip("_").removesuffix("_kernel"),
        "target": job.target.arch,
        "dtype": job.dtype,
        "head_dim": job.head_dim,
        "variant": " ".join(name if on is True else f"{name}={on}" for name, on in job.variant.items() if on is not False),
        "config": job.config or "-",
    }
    try:
        kernel = compiled(job)
    except Exception as error:  # a compiler's failure is what this script is here to report
        return {**row, "ok": False, "error": reason(error)}
    row |= machine(kernel, job)
    return {**row, "ok": is_ok(row, job)}


def machine(kernel, job: Job) -> dict:
    """What the compiled kernel needs and does: of loops prefetch depth, whether wgmma is serialised, and instructions."""
    target = job.target
    assembly = kernel.asm["ptx" if target.nvidia else "amdgcn"]
    registers, spill_bytes = machine_code.resources(kernel.asm["cubin"]) if target.nvidia else _amd_usage(assembly)
    row = {
        "registers": registers,
        "spill_bytes": spill_bytes,
        "shared_bytes": kernel.metadata.shared,
        "shared_limit": target.shared_kib << 10,
        "matrix_op": next((name for name, pattern in MATRIX_OPS.items() if re.search(pattern, assembly)), "none"),
    }
    if target.nvidia and job.case.matrix:
        row["prefetch"] = machine_code.prefetch(assembly) or 0
        row["serialised"] = target.matrix_op == "wgmma" and machine_code.serialised(assembly, f"sm_{target.triton.arch}a")
        row["loops"] = [vars(turn) for turn in machine_code.turns(kernel.asm["cubin"])]
    return row


def _amd_usage(assembly: str) -> tuple[int, int]:
    registers, spilled = (re.search(rf"\.{name}:\s+(\d+)", assembly)[1] for name in ("vgpr_count", "vgpr_spill_count"))
    return int(registers), 4 * int(spilled)


def is_ok(row: dict, job: Job) -> bool:
    """No spills, within shared memory, and in 16 bit on the matrix units, with copies ahead and products side by side."""
    in_16_bit = job.dtype != "fp32"
    return (
        row["spill_bytes"] == 0
        and row["shared_bytes"] <= row["shared_limit"]
        and (not job.case.matrix or not in_16_bit or row["matrix_op"] == job.target.matrix_op)
        and (not in_16_bit or row.get("prefetch", 1) >= 1)
        and (not row.get("serialised") or triton.__version__.startswith(SERIALISES))
    )


def _stand_in_for_linker() -> None:
    """Older Triton wants ROCm's linker for AMD's last step; only the assembly before it is read here."""
    if "TRITON_HIP_LLD_PATH" in os.environ or Path("/opt/rocm/llvm/bin/ld.lld").exists():
        return
    script = Path(tempfile.mkdtemp()) / "ld.lld"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n')
    script.chmod(0o755)
    os.environ["TRITON_HIP_LLD_PATH"] = str(script)


def _jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    """All that was asked for and has a config, or needs none."""
    for case, target in product(CASES, TARGETS):
        if case.op not in (arguments.kernels or (case.op,)) or target.arch not in (arguments.targets or (target.arch,)):
            continue
        for head_dim, dtype in product(case.head_dims, [x for x in case.dtypes if x in (arguments.dtypes or case.dtypes)]):
            names = arguments.configs if case.matrix else [None]
            if not names:
                try:
                    names = [str(config_for(case.op, head_dim, target.arch, dtype == "fp32"))]
                except NoTileConfig:  # torch does the work there
                    continue
            for name in names:
                variants = case.variants(case.module, TileConfig.parse(name)) if callable(case.variants) else case.variants
                yield from (Job(case, target, head_dim, dtype, name, variant) for variant in variants)


def main() -> None:
    """Prints a row a kernel, target, dtype, head_dim and variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the rows to, one JSON line each")
    parser.add_argument("--kernels", nargs="+", help="only these ops")
    parser.add_argument("--targets", nargs="+", help="only these architectures, such as 9.0 or gfx942")
    parser.add_argument("--dtypes", nargs="+", help="only these element types")
    parser.add_argument("--configs", nargs="+", help="tile configs to try in place of the table's, such as 128x32w8s5t32d128a")
    arguments = parser.parse_args()
    if arguments.json:
        arguments.json.unlink(missing_ok=True)
    _stand_in_for_linker()
    table, results = Rows(COLUMNS, arguments.json, None), []
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for row in pool.map(row_of, list(_jobs(arguments))):
            table.add(row)
            results.append(row["ok"])
    print(f"{sum(results)} of {len(results)} ok")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
