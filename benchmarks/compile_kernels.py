"""Does every kernel compile for every GPU that is supported: no spills, within shared memory, on the matrix units, prefetching?

Needs no GPU: Triton compiles ahead of time and ships the assembler. Exits with 1 if a row is not ok. On NVIDIA's GPUs
a kernel in 16 bit must have a tile on its way while it computes another (`prefetch` at least 1), and none of its matrix
instructions may wait for the one before (`serialised`). In INT8 or FP8, the products of its loop must be of that kind
(`products`). One exception: the assembler in Triton 3.3 (ptxas 12.4) serialises every wgmma of sm_90 that it meets in a loop,
whatever the source; newer ones do not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import machine_code
import pack  # noqa: F401, loads the pack

KIB = 1024
SERIALISES = "3.3."  # Triton whose assembler serialises wgmma


@dataclass(frozen=True)
class Target:
    """A GPU architecture: its name in the config table, Triton's target, bytes of shared memory, matrix instructions."""

    arch: str
    backend: str
    triton_arch: int | str
    warp_size: int
    shared_limit: int
    matrix_ops: tuple[str, ...]


TARGETS = (
    Target("8.0", "cuda", 80, 32, 163 * KIB, ("mma",)),
    Target("8.6", "cuda", 86, 32, 99 * KIB, ("mma",)),
    Target("8.9", "cuda", 89, 32, 99 * KIB, ("mma",)),
    Target("9.0", "cuda", 90, 32, 227 * KIB, ("wgmma",)),
    Target("10.0", "cuda", 100, 32, 227 * KIB, ("tcgen05",)),
    Target("12.0", "cuda", 120, 32, 99 * KIB, ("mma",)),
    Target("gfx942", "hip", "gfx942", 64, 64 * KIB, ("mfma",)),
    Target("gfx1100", "hip", "gfx1100", 32, 64 * KIB, ("wmma",)),
)
# Of each precision, what a loop must hold one of: instructions of NVIDIA's machine code, and of AMD's.
INT8, FP8 = ("IMMA", "IGMMA", "UTCIMMA", "i8"), ("QMMA", "QGMMA", "UTCQMMA")
PRODUCTS = {"16 bit": (), "int8": (INT8,), "8 bit": (INT8, FP8)}
VALUES = {None: "x", "float16": "fp16", "float8_e4m3fn": "fp8e4nv"}
MATRIX_OPS = {  # in the assembly of the target
    "wgmma": r"\bwgmma\.mma_async",
    "tcgen05": r"\btcgen05\.mma",
    "mma": r"\bmma\.sync",
    "mfma": r"\bv_mfma",
    "wmma": r"\bv_wmma",
}


@dataclass(frozen=True)
class Case:
    """One kernel in one variant.

    Attributes:
        op, kernel: folder under kernels/ and function in its triton_kernel.py.
        pointers: argument name -> element type; "x" is the variant's dtype, "values" what the config has for them.
        floats: arguments that are floating point numbers; all others are integers.
        variants: constexprs of each variant, beside HEAD_DIM, those of the config and the module's own; or a function
            of the config that gives them.
        matrix: the kernel lives on matrix instructions, and has a config in the table.
        num_warps: of a kernel without one.
        precision: of its products.
    """

    op: str
    kernel: str
    pointers: dict[str, str]
    floats: tuple[str, ...] = ()
    variants: tuple[dict, ...] | Callable[..., list[dict]] = ({},)
    matrix: bool = True
    num_warps: int = 4
    head_dims: tuple[int, ...] = (64, 128)
    dtypes: tuple[str, ...] = ("bf16", "fp16", "fp32")
    precision: str = "16 bit"


def pointers(**by_type: str) -> dict[str, str]:
    """Argument names in words, by element type -> element type by name."""
    return {f"{name}_ptr": element for element, names in by_type.items() for name in names.split()}


def attention_passes(config, quantised: bool = False) -> list[dict]:
    """Every launch that gather_attention makes with this config, over all its options; in few bits, those of the lists."""
    passes = importlib.import_module("sparse_videogen.kernels.gather_attention.triton_kernel").passes
    options = [(order, config.tail_apart, lse) for order, lse in ((0, False), (1, False), (2, False), (2, True))]
    made = [one for option in options for few in (quantised, True) for one in passes(*option, few)]
    return list({str(one): one for one in made if one["QUANTISED"] == quantised}.values())


def score_variants(config) -> list[dict]:
    """With and without variances, for tiles of which all rows are scored, and every second one."""
    return [{"HAS_VARIANCE": on, "ROWS": rows} for on in (False, True) for rows in (config.block_m, config.block_m // 2)]


ATTENTION = {
    "floats": ("qk_scale", "second_order_scale", "second_order_cap"),
    "pointers": pointers(
        x="q k v out k_mean k_variance v_mean",
        i32="list_of_head query_index key_index key_count",
        i64="key_start k_terms",
        fp32="lse log_size channels q_terms",
        u8="cluster_mask",
    ),
}
NO_HEADS = {"matrix": False, "head_dims": (128,), "dtypes": ("fp32",)}
CASES = (
    Case("gather_attention", "_gather_attention_kernel", variants=attention_passes, **ATTENTION),
    *(
        Case(
            "gather_attention",
            "_gather_attention_kernel",
            ATTENTION["pointers"] | {"q_ptr": "i8", "k_ptr": "i8", "v_ptr": "values"},
            ATTENTION["floats"],
            partial(attention_passes, quantised=True),
            dtypes=("bf16", "fp16"),
            precision=precision,
        )
        for precision in ("int8", "8 bit")
    ),
    Case(
        "quantise",
        "_quantise_kernel",
        pointers(x="x", fp32="channels terms", i8="x8"),
        floats=("qk_scale",),
        variants=({"IS_Q": True}, {"IS_Q": False}),
        matrix=False,
        precision="int8",
    ),
    *(
        Case(
            "quantise",
            "_quantise_values_kernel",
            pointers(x="v", fp32="channels", **{values: "v8"}),
            floats=("largest",),
            matrix=False,
            precision=precision,
        )
        for values, precision in (("fp16", "int8"), ("fp8e4nv", "8 bit"))
    ),
    Case("assign", "_assign_kernel", pointers(x="x padded", fp32="half_norm", i32="labels")),
    Case(
        "assign",
        "_pad_centroids_kernel",
        pointers(x="padded", fp32="centroids metric half_norm"),
        variants=({"HAS_METRIC": False}, {"HAS_METRIC": True}),
        matrix=False,
    ),
    Case(
        "centroids",
        "_centroids_kernel",
        pointers(x="x", i32="permutation offsets sizes", fp32="previous mean variance"),
        variants=tuple({"HAS_PREVIOUS": True, "HAS_VARIANCE": variance} for variance in (False, True)),
        matrix=False,
    ),
    Case(
        "exact_rows",
        "_exact_rows_kernel",
        pointers(x="q k v", i64="rows", i32="rank prefix begin end", fp32="acc max sum"),
        floats=("qk_scale",),
        variants=({"HAS_WINDOWS": False}, {"HAS_WINDOWS": True}),
    ),
    Case(
        "score",
        "_score_kernel",
        pointers(x="q mean variance", i32="rows", fp32="log2_size worth score"),
        floats=("qk_scale", "second_order_scale", "most_spread"),
        variants=score_variants,
    ),
    Case(
        "score",
        "_pad_clusters_kernel",
        pointers(x="mean variance", fp32="k_mean k_variance log_size v_spread log2_size worth"),
        floats=("square_scale",),
        variants=({"HAS_VARIANCE": False}, {"HAS_VARIANCE": True}),
        matrix=False,
    ),
    Case(
        "budget",
        "_threshold_kernel",
        pointers(fp32="scores", i32="rows sizes threshold", i64="budget"),
        num_warps=8,
        **NO_HEADS,
    ),
    Case(
        "budget",
        "_keep_kernel",
        pointers(fp32="scores", i32="rows sizes threshold count", u8="cluster_mask"),
        variants=({"AT_LEAST_ONE": False}, {"AT_LEAST_ONE": True}),
        **NO_HEADS,
    ),
    Case("bins", "_bins_kernel", pointers(x="x", i32="labels bins", fp32="axis offset"), matrix=False),
    Case("select", "_tile_mass_kernel", pointers(fp32="probs mass", i32="row_labels"), variants=({"ROWS": 128},), **NO_HEADS),
    Case(
        "select", "_select_kernel", pointers(fp32="mass", i32="sizes count", u8="cluster_mask"), floats=("top_p",), **NO_HEADS
    ),
    Case(
        "pack",
        "_pack_lists_kernel",
        pointers(i32="permutation start length count key_index", i64="key_start", u8="segment_mask"),
        variants=({"HAS_MASK": False}, {"HAS_MASK": True}),
        num_warps=1,
        **NO_HEADS,
    ),
)


def row_of(job: tuple) -> dict:
    """Compiles one kernel for one target; the row that is printed.

    Args:
        job: case, target, head_dim, dtype, tile config by its short name (or None), variant.
    """
    case, target, head_dim, dtype, config, variant = job
    import triton
    from triton.backends.compiler import GPUTarget

    module = importlib.import_module(f"sparse_videogen.kernels.{case.op}.triton_kernel")
    configs = importlib.import_module("sparse_videogen.kernels.tile_configs")
    kernel = getattr(module, case.kernel)
    launch = {"num_warps": case.num_warps, "enable_fp_fusion": True}
    constants = {name: getattr(module, name) for name in kernel.arg_names if hasattr(module, name)}
    constants = {name: value[head_dim] if isinstance(value, dict) else value for name, value in constants.items()}
    constants |= {"HEAD_DIM": head_dim, "PRECISION": "tf32" if dtype == "fp32" and target.backend == "cuda" else "ieee"}
    values = None
    if config:
        tile = configs.TileConfig.parse(config)
        launch, values = tile.launch, tile.values
        constants |= {
            "SHORT_SUMS": values is not None,
            "TAIL_BLOCK_N": None,
            "SPREAD_D": None,
            "TAIL_STAGES": None,
        } | tile.constexprs
    constants = {name: value for name, value in {**constants, **variant}.items() if name in kernel.arg_names}
    row = {
        "op": "compiled",
        "triton": triton.__version__,
        "kernel": case.kernel.strip("_").removesuffix("_kernel"),
        "target": target.arch,
        "dtype": dtype,
        "head_dim": head_dim,
        "variant": " ".join(name if on is True else f"{name}={on}" for name, on in variant.items() if on is not False),
        "config": config or "-",
    }
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature={parameter.name: _type(parameter, case, dtype, constants, values) for parameter in kernel.params},
        constexprs=constants,
        attrs={
            (parameter.num,): [["tt.divisibility", 16]]
            for parameter in kernel.params
            if parameter.name in case.pointers and not parameter.do_not_specialize
        },
    )
    try:
        compiled = triton.compile(
            source, target=GPUTarget(target.backend, target.triton_arch, target.warp_size), options=launch
        )
    except Exception as error:  # a compiler's failure is what this script is here to report
        return {**row, "ok": False, "error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    row |= _resources(compiled, target)
    row |= _loops(compiled, target) if case.matrix else {}
    row["ok"] = (
        row["spill_bytes"] == 0
        and row["shared_bytes"] <= target.shared_limit
        and (not case.matrix or dtype == "fp32" or row["matrix_op"] in target.matrix_ops)
        and (dtype == "fp32" or row.get("prefetch", 1) >= 1)
        and (not row.get("serialised") or triton.__version__.startswith(SERIALISES))
        and (not case.matrix or all(set(kinds) & set(row["products"]) for kinds in PRODUCTS[case.precision]))
    )
    return row


def _type(parameter, case: Case, dtype: str, constants: dict, values: str | None) -> str:
    if parameter.name in constants:
        return "constexpr"
    if parameter.name in case.pointers:
        element = case.pointers[parameter.name]
        element = VALUES[values] if element == "values" else element
        return "*" + (dtype if element == "x" else element)
    if parameter.name in case.floats:
        return "fp32"
    return parameter.annotation_type or "i32"


def _resources(compiled, target: Target) -> dict:
    assembly = compiled.asm["ptx"] if target.backend == "cuda" else compiled.asm["amdgcn"]
    read = machine_code.resources if target.backend == "cuda" else _amd_usage
    registers, spill_bytes = read(compiled.asm["cubin"] if target.backend == "cuda" else assembly)
    matrix_op = next((name for name, pattern in MATRIX_OPS.items() if re.search(pattern, assembly)), "none")
    return {
        "registers": registers,
        "spill_bytes": spill_bytes,
        "shared_bytes": compiled.metadata.shared,
        "shared_limit": target.shared_limit,
        "matrix_op": matrix_op,
    }


def _loops(compiled, target: Target) -> dict:
    """What `machine_code` reads: prefetch depth, whether wgmma is serialised, and the loops' products and instructions.

    Of AMD's assembly, which types its products have.
    """
    if target.backend == "hip":
        return {"products": sorted(set(re.findall(r"\bv_w?m(?:fm|m)a_\w+_(\w+)", compiled.asm["amdgcn"])))}
    ptx, loops = compiled.asm["ptx"], machine_code.turns(compiled.asm["cubin"])
    return {
        "prefetch": machine_code.prefetch(ptx) or 0,
        "serialised": "wgmma" in target.matrix_ops and machine_code.serialised(ptx, f"sm_{target.triton_arch}a"),
        "products": sorted({product for loop in loops for product in loop.pop("products")}),
        "loops": loops,
    }


def _stand_in_for_linker() -> None:
    """Older Triton wants ROCm's linker for AMD's last step; only the assembly before it is read here."""
    if "TRITON_HIP_LLD_PATH" in os.environ or Path("/opt/rocm/llvm/bin/ld.lld").exists():
        return
    script = Path(tempfile.mkdtemp()) / "ld.lld"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n')
    script.chmod(0o755)
    os.environ["TRITON_HIP_LLD_PATH"] = str(script)


def _amd_usage(assembly: str) -> tuple[int, int]:
    registers = re.search(r"\.vgpr_count:\s+(\d+)", assembly)
    spilled = re.search(r"\.vgpr_spill_count:\s+(\d+)", assembly)
    return int(registers[1]), 4 * int(spilled[1])


def _jobs(arguments: argparse.Namespace):
    """Yields what `row_of` takes, for all that was asked for and has a config, or needs none."""
    configs = importlib.import_module("sparse_videogen.kernels.tile_configs")
    for case, target in product(CASES, TARGETS):
        asked = {"kernels": case.op, "targets": target.arch, "precisions": case.precision}
        if any(getattr(arguments, name) and one not in getattr(arguments, name) for name, one in asked.items()):
            continue
        for head_dim, dtype in product(case.head_dims, case.dtypes):
            if arguments.dtypes and dtype not in arguments.dtypes:
                continue
            names = [None]
            if case.matrix or case.precision != configs.SIXTEEN:
                kind = "float32" if dtype == "fp32" and case.precision == configs.SIXTEEN else case.precision
                try:
                    own = str(configs.config_for(case.op if case.matrix else "gather_attention", head_dim, target.arch, kind))
                except configs.NoTileConfig:  # nothing of it runs there
                    continue
                names = arguments.configs or [own] if case.matrix else names
            for name in names:
                tile = configs.TileConfig.parse(name) if name else None
                for variant in case.variants(tile) if callable(case.variants) else case.variants:
                    if not variant.get("RESUME") or tile.tail_apart or dtype != "fp32" and _has_few_bits(target, head_dim):
                        yield case, target, head_dim, dtype, name, variant


def _has_few_bits(target: Target, head_dim: int) -> bool:
    """Whether lists run in few bits there, after which the tail goes on, whatever it does in 16 bit."""
    configs = importlib.import_module("sparse_videogen.kernels.tile_configs")
    try:
        return configs.config_for("gather_attention", head_dim, target.arch, "int8") is not None
    except configs.NoTileConfig:
        return False


def main() -> None:
    """Prints a row a kernel, target, dtype, head_dim and variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write all rows to, one JSON line a row")
    parser.add_argument("--kernels", nargs="+", help="only these ops")
    parser.add_argument("--targets", nargs="+", help="only these architectures, such as 9.0 or gfx942")
    parser.add_argument("--dtypes", nargs="+", help="only these element types")
    parser.add_argument("--precisions", nargs="+", choices=PRODUCTS, help="only these precisions of the products")
    parser.add_argument("--configs", nargs="+", help="tile configs to try in place of the table's, such as 128x32w8s5t32d128a")
    arguments = parser.parse_args()
    _stand_in_for_linker()
    jobs = list(_jobs(arguments))
    columns = {"kernel": 17, "target": 9, "dtype": 6, "head_dim": 9, "variant": 26, "config": 26, "registers": 10}
    columns |= {"spill_bytes": 12, "shared_bytes": 13, "shared_limit": 13, "matrix_op": 10, "prefetch": 9, "serialised": 11}
    columns |= {"ok": 6, "error": 0}
    print("".join(f"{column:<{width}}" for column, width in columns.items()), flush=True)
    rows = []
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for row in pool.map(row_of, jobs):
            rows.append(row)
            print("".join(f"{str(row.get(column, '')):<{width}}" for column, width in columns.items()), flush=True)
    if arguments.json:
        arguments.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    failed = sum(not row["ok"] for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} ok")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
