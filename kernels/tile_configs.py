"""Tile shapes and launch knobs: a committed table, never tuned at run time."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from .compat import FUSED, triton_version


class NoTileConfig(RuntimeError):
    """The table says that no config fits the registers of this architecture."""


# gather_attention's tail finds its rows without an index: as far ahead with 3 as the lists' loop with 5, in less memory.
TAIL_STAGES = 3
# Compute capabilities that have another's units and no less shared memory.
ALIASES = {"8.7": "8.6", "10.3": "10.0", "12.1": "12.0"}
SIXTEEN = "16 bit"
TABLE = Path(__file__).with_name("tile_configs.json")


@dataclass(frozen=True)
class TileConfig:
    """Launch knobs of one kernel.

    Attributes:
        block_m: rows (queries, tokens) that one program handles.
        block_n: columns (keys, clusters) of one step of its loop.
        num_warps, num_stages: as Triton names them.
        tail_block_n, spread_d: of gather_attention's tail: clusters of one step, and columns of q * q made at a time;
            all of them at once is faster where the registers hold them.
        tail_apart: of gather_attention: the tail is a launch of its own, so that its registers do not count for the lists'.
        values: of gather_attention in 8 bit: the dtype of the values, None for their own. float16 where products with its
            short sums run at twice the rate of those with float32 sums.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    tail_block_n: int | None = None
    spread_d: int | None = None
    tail_apart: bool = False
    values: str | None = None

    @property
    def values_dtype(self) -> torch.dtype | None:
        """What `values` names."""
        return self.values and getattr(torch, self.values)

    @property
    def launch(self) -> dict:
        """What Triton takes beside a kernel's arguments."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **FUSED}

    @property
    def constexprs(self) -> dict:
        """The kernel's arguments that follow from the config; each kernel takes those that it has."""
        tail = {"TAIL_BLOCK_N": self.tail_block_n, "SPREAD_D": self.spread_d, "TAIL_STAGES": min(self.num_stages, TAIL_STAGES)}
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n} | (tail if self.tail_block_n else {})

    def __str__(self) -> str:
        """In short: "128x64w8s5t32d128" has 8 warps, 5 stages, a tail by 32 and 128; with "a" behind, it is apart.

        "128x64w8s5-float16" has values in that dtype.
        """
        tail = f"t{self.tail_block_n}d{self.spread_d}" + "a" * self.tail_apart if self.tail_block_n else ""
        values = f"-{self.values}" if self.values else ""
        return f"{self.block_m}x{self.block_n}w{self.num_warps}s{self.num_stages}{tail}{values}"

    @classmethod
    def parse(cls, name: str) -> TileConfig:
        """The config that is called so in short; raises a ValueError where none is."""
        found = re.fullmatch(r"(\d+)x(\d+)w(\d+)s(\d+)(?:t(\d+)d(\d+)(a?))?(?:-(\w+))?", name)
        if not found:
            raise ValueError(f"tile config {name!r}: must look like 128x64w8s5, 128x64w8s5t32d128a or 128x64w8s5-float16")
        *numbers, apart, values = found.groups()
        return cls(*(None if x is None else int(x) for x in numbers), tail_apart=bool(apart), values=values)


def tile_config(
    op: str, head_dim: int, device: torch.device, dtype: torch.dtype = torch.bfloat16, precision: str = SIXTEEN
) -> TileConfig:
    """The config of `op` for a GPU, by its compute capability ("9.0") or AMD architecture ("gfx942")."""
    kind = "float32" if dtype == torch.float32 and precision == SIXTEEN else precision
    return config_for(op, head_dim, architecture(device), kind)


@functools.cache
def config_for(op: str, head_dim: int, arch: str, kind: str = SIXTEEN) -> TileConfig:
    """As `tile_config`, for an architecture by name: its own or its alias's entry, its generation's ("gfx9"), or the default.

    Args:
        kind: "16 bit", or what the entry's key has behind its head_dim: "float32", "int8" or "8 bit".

    Raises:
        NoTileConfig: there is no Triton kernel for this combination, or none before the "min_triton" of its configs.
    """
    by_arch, key = table()[op], str(head_dim) if kind == SIXTEEN else f"{head_dim}-{kind}"
    entries = (by_arch.get(name, {}) for name in (ALIASES.get(arch, arch), arch[:4], "default"))
    choices = next((entry[key] for entry in entries if key in entry), None) or []
    choices = [choices] if isinstance(choices, dict) else choices
    config = next((dict(choice) for choice in choices if tuple(choice.get("min_triton", ())) <= triton_version()), None)
    if config is None:
        named = f"head_dim {head_dim}" if kind == SIXTEEN else f"{kind}, head_dim {head_dim}"
        raise NoTileConfig(f"{op} has no Triton kernel for {named} on {arch}")
    config.pop("min_triton", None)
    return TileConfig(**config)


@functools.cache
def table() -> dict:
    """The whole table: op -> architecture -> head_dim (and "-float32", "-int8", "-8 bit") -> knobs, or null where none fits.

    Where there are several, the first one counts that this Triton can compile.
    """
    return json.loads(TABLE.read_text())


@functools.cache
def architecture(device: torch.device) -> str:
    """'9.0' for an H100, 'gfx942' for an MI300X, else the device's type, such as 'cpu'."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "{}.{}".format(*torch.cuda.get_device_capability(device))
