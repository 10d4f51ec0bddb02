"""GPUs by their makers' figures, and how long a loop of a compiled kernel takes on one."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from sparse_videogen.kernels.tile_configs import TileConfig

# Cycles of a turn beyond its products and its other instructions: barriers, and the way into and out of the matrix units.
# Fitted to one figure: Triton's own dense attention reaches 477 TFLOP/s on an H100 at head_dim 128 (its tutorial, 128 x 64).
TURN_CYCLES = 370
EXPOSED_CYCLES = 900  # from an index to its row in shared memory, where a turn waits for it
PROGRAM_CYCLES = 3000  # a program's start and end: its rows of q, the last block, its rows of out


@dataclass(frozen=True)
class Gpu:
    """A GPU by its maker's figures; what is computed at a time is a multiprocessor's.

    Attributes:
        arch: in the table of tile configs.
        device: a part of the name that the driver gives it.
        sms, ghz: multiprocessors, and their clock under such a load.
        matrix: operations of matrix products a cycle (a multiply-add is two), by what is multiplied: "16 bit" with float32
            sums, "float16" with sums in float16, "int8", and "float8_e4m3fn" with float32 sums, where it has them.
        lanes: of float32 and of integer and comparing instructions.
        threads: that it holds at a time.
        shared_bytes: shared memory.
        l2_gbs, memory_gbs: what all can read from the L2 cache and from memory, GB/s.
        dense_tflops: of the best dense attention, head_dim 128, and whose.
        sage_tflops: that SageAttention's authors report at head_dim 128, and of which version.
    """

    name: str
    arch: str
    device: str
    sms: int
    ghz: float
    matrix: dict[str, int]
    lanes: tuple[int, int]
    threads: int
    shared_bytes: int
    l2_gbs: float
    memory_gbs: float
    dense_tflops: float
    dense: str
    sage_tflops: float
    sage: str

    def ms(self, cycles: float) -> float:
        return cycles / self.ghz / 1e6


def _rates(sixteen: int, float16: int, int8: int, fp8: int | None = None) -> dict[str, int]:
    return {"16 bit": sixteen, "float16": float16, "int8": int8} | ({"float8_e4m3fn": fp8} if fp8 else {})


# Rates of dense attention at head_dim 128 and 32K tokens: those of SageAttention and of FlashAttention 2 are the labels in the
# charts of thu-ml/SageAttention (assets/*_hd128.png, *_sageattn2++.png), whose kernels are timed without quantising; that of
# FlashAttention 3 is of its authors' benchmark.
# fmt: off
GPUS = (
    Gpu("A100 SXM", "8.0", "A100", 108, 1.41, _rates(2048, 2048, 4096), (64, 64), 2048, 164 << 10, 4400, 2039,
        204, "FlashAttention 2", 278, "SageAttention"),
    Gpu("H100 SXM", "9.0", "H100", 132, 1.70, _rates(4096, 4096, 8192, 8192), (128, 64), 2048, 228 << 10, 5500, 3350,
        621, "FlashAttention 3", 882, "SageAttention 2"),
    Gpu("RTX 3090", "8.6", "3090", 82, 1.70, _rates(512, 1024, 2048), (128, 64), 1536, 100 << 10, 2500, 936,
        68, "FlashAttention 2", 134, "SageAttention"),
    Gpu("RTX 4090", "8.9", "4090", 128, 2.52, _rates(512, 1024, 2048, 1024), (128, 64), 1536, 100 << 10, 5000, 1008,
        164, "FlashAttention 2", 493, "SageAttention 2++"),
    Gpu("RTX 5090", "12.0", "5090", 170, 2.41, _rates(512, 1024, 2048, 1024), (128, 128), 1536, 100 << 10, 7000, 1792,
        214, "FlashAttention 2", 643, "SageAttention 2++"),
)
# fmt: on


@dataclass(frozen=True)
class Loop:
    """A compiled loop on one GPU: what a turn of one program costs.

    Attributes:
        cycles: from one turn to the next, if nothing else runs.
        busy: by unit, cycles for which the turn occupies it; programs that run side by side share the units.
        resident: programs that a multiprocessor holds at a time.
    """

    cycles: float
    busy: dict[str, float]
    resident: int

    @property
    def rate(self) -> float:
        """Cycles a turn where `resident` programs share a multiprocessor."""
        return max(self.cycles / self.resident, *self.busy.values())

    @property
    def limit(self) -> str:
        """What decides."""
        unit = max(self.busy, key=self.busy.get)
        return unit if self.busy[unit] >= self.cycles / self.resident else "one turn after the other"


def loop_of(row: dict, number: int, gpu: Gpu, flops: float, l2_bytes: float, kinds: tuple[str, ...] = ("16 bit",)) -> Loop:
    """A loop of a compiled kernel, whose turn computes `flops` on the matrix units and reads `l2_bytes`.

    Its products are of these kinds, each of as much.
    """
    tile, turn = TileConfig.parse(row["config"]), row["loops"][number]
    count, warps = turn["by_class"], tile.num_warps
    registers = -(-row["registers"] // 8) * 8
    fits = 65536 // (registers * 32 * warps), gpu.shared_bytes // (row["shared_bytes"] + 1024), gpu.threads // (32 * warps)
    vector = {  # 4 schedulers start an instruction a cycle each, and 16 exponents fit into one
        "instructions": turn["instructions"] * warps / 4,
        "exponents": count.get("special", 0) * warps * 32 / 16,
        "integers and comparisons": count.get("alu", 0) * warps * 32 / gpu.lanes[1],
        "multiply-adds": count.get("fma", 0) * warps * 32 / gpu.lanes[0],
    }
    matrix = sum(flops / len(kinds) / gpu.matrix[kind] for kind in kinds)
    l2 = l2_bytes / (gpu.l2_gbs / gpu.ghz / gpu.sms)
    cycles = max(matrix + max(vector.values()) + TURN_CYCLES + (0 if row["prefetch"] else EXPOSED_CYCLES), l2)
    return Loop(cycles, {**vector, "matrix units": matrix, "L2 reads": l2}, max(1, min(fits)))


def makespan(work: list[float], slots: int) -> float:
    """When the last of these programs ends, taken in their order by slots that become free."""
    free = [0.0] * min(slots, len(work))
    for cycles in work:
        heapq.heappush(free, heapq.heappop(free) + cycles)
    return max(free)
