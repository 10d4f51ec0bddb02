"""What compile_kernels.py compiles: GPU architectures, and the kernels with their variants and arguments' types."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from sparse_videogen.kernels.tile_configs import TileConfig
from triton.backends.compiler import GPUTarget


@dataclass(frozen=True)
class Target:
    """A GPU architecture by its name in the config table: shared memory, matrix instructions, threads that run as one."""

    arch: str
    shared_kib: int
    matrix_op: str
    warp_size: int = 32

    @property
    def nvidia(self) -> bool:
        return not self.arch.startswith("gfx")

    @property
    def triton(self) -> GPUTarget:
        number = int(self.arch.replace(".", "")) if self.nvidia else self.arch
        return GPUTarget("cuda" if self.nvidia else "hip", number, self.warp_size)


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
# Arguments of the kernels that are no integers, by element type; "x" is the variant's dtype.
POINTERS = {
    "x": "x q k v out padded k_mean k_variance v_mean",
    "i64": "rows",
    "i32": "set_of_head query_index key_index key_count labels row_labels order offsets size rank prefix begin end count start"
    " length index",
    "fp32": "lse log_size half_norm centroids previous mean variance acc max sum probs mass",
    "u8": "kept",
}
ELEMENT = {f"{name}_ptr": element for element, names in POINTERS.items() for name in names.split()}
FLOATS = ("qk_scale", "second_order_scale", "second_order_cap", "top_p")


@dataclass(frozen=True)
class Case:
    """One kernel in one variant.

    Attributes:
        op, kernel: folder under kernels/ and function in its triton_kernel.py.
        variants: constexprs of each variant, beside HEAD_DIM, those of the config and the module's own; or a function
            of the module and config that gives them.
        matrix: the kernel lives on matrix instructions, and has a config in the table.
        num_warps: of a kernel without one.
    """

    op: str
    kernel: str
    variants: tuple[dict, ...] | Callable[..., list[dict]] = ({},)
    matrix: bool = True
    num_warps: int = 4
    head_dims: tuple[int, ...] = (64, 128)
    dtypes: tuple[str, ...] = ("bf16", "fp16", "fp32")

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"sparse_videogen.kernels.{self.op}.triton_kernel")


def attention_passes(module: ModuleType, config: TileConfig) -> list[dict]:
    """Every launch that gather_attention makes with this config, over all its options."""
    options = ((0, False), (1, False), (2, False), (2, True))
    made = (one for order, with_lse in options for one in module.passes(order, config.tail_apart, with_lse))
    return list({str(one): one for one in made}.values())


def either(name: str, **others: bool) -> tuple[dict, ...]:
    """Variants without and with one constexpr."""
    return tuple({**others, name: value} for value in (False, True))


NO_HEADS = {"matrix": False, "head_dims": (128,), "dtypes": ("fp32",)}
CASES = (
    Case("gather_attention", "_gather_attention_kernel", attention_passes),
    Case("assign", "_assign_kernel"),
    Case("assign", "_pad_centroids_kernel", matrix=False),
    Case("centroids", "_centroids_kernel", either("HAS_VARIANCE", HAS_PREVIOUS=True), matrix=False),
    Case("sample_rows", "_sample_rows_kernel", either("HAS_WINDOWS")),
    Case("select", "_tile_mass_kernel", ({"ROWS": 128},), **NO_HEADS),
    Case("select", "_select_kernel", **NO_HEADS),
    Case("pack", "_pack_lists_kernel", either("HAS_KEPT"), num_warps=1, **NO_HEADS),
)
