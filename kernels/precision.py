"""In how many bits the products of attention are computed: what there is, and what a GPU has."""

from __future__ import annotations

import torch

from .backend import failed
from .tile_configs import NoTileConfig, architecture, tile_config

# From the finest on. "int8": q k^T in INT8, p v in 16 bit. "8 bit": q k^T in INT8, p v in FP8 (e4m3).
PRECISIONS = ("16 bit", "int8", "8 bit")
REMEDIES = {
    "int8": "it needs an NVIDIA GPU of the RTX 30 series or newer, or one of AMD's Instinct series",
    "8 bit": "it needs FP8, which NVIDIA's GPUs have from the RTX 40 series on (RTX 50 series: with Triton 3.6 or newer)",
}


def nearest_precision(
    wanted: str, head_dim: int, device: torch.device, dtype: torch.dtype, backend: str
) -> tuple[str, str | None]:
    """The precision wanted, or the nearest finer one that runs for such q, k, v; and why, if it is another.

    Torch rounds as the kernels do, and gains no time by it.

    Raises:
        ValueError: `wanted` is none of `PRECISIONS`.
    """
    if wanted not in PRECISIONS:
        raise ValueError(f"precision={wanted!r}: must be one of {', '.join(PRECISIONS)}")
    if wanted == PRECISIONS[0] or backend == "torch":
        return wanted, None
    if dtype == torch.float32:
        return PRECISIONS[0], _instead(wanted, PRECISIONS[0], "it is for models in 16 bit, and this one is in float32")
    first = None
    for precision in PRECISIONS[PRECISIONS.index(wanted) : 0 : -1]:
        reason = failed("gather_attention", device, dtype, precision) or _missing(precision, head_dim, device)
        if reason is None:
            break
        first = first or reason
    else:
        precision = PRECISIONS[0]
    return precision, None if first is None else _instead(wanted, precision, first)


def _instead(wanted: str, precision: str, why: str) -> str:
    return f"precision {wanted!r} cannot run: {why}; {precision!r} runs in its place"


def _missing(precision: str, head_dim: int, device: torch.device) -> str | None:
    try:
        tile_config("gather_attention", head_dim, device, precision=precision)
    except NoTileConfig:
        return f"{REMEDIES[precision]}; this GPU's architecture is {architecture(device)}"
    return None
