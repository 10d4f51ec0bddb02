"""gather_attention: runs a plan, i.e. attention of query tiles over their own lists of keys."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ..backend import run
from ..plan import Plan
from ..quantise import Channels, measure_channels, quantise, quantised_bytes
from ..tile_configs import SIXTEEN, NoTileConfig, tile_config

HEAD_DIMS = (64, 128)
# Checks every index of a plan, which waits for the device; the tests set it.
DEBUG = os.environ.get("SPARSE_VIDEOGEN_DEBUG") == "1"


def tile_rows(head_dim: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> int:
    """M, the query rows of a tile that plans for this device should have; the same for every backend.

    256 on a CPU, where products of that height run 15 % faster than of 128; a GPU's registers decide there.
    """
    return _config(head_dim, device, dtype).block_m


def computed_blocks(q: Tensor, backend: str, precision: str = SIXTEEN) -> tuple[int, int]:
    """Rows and keys that the executor computes at a time for q [B, H, N, D]: torch pads nothing."""
    if backend != "triton":
        return 1, 1
    config = _config(q.shape[3], q.device, q.dtype, precision)
    return config.block_m, config.block_n


def values_dtype(q: Tensor, precision: str) -> torch.dtype | None:
    """What values are quantised to in this precision; None: not at all."""
    return _config(q.shape[3], q.device, q.dtype, precision).values_dtype


def extra_bytes(tokens: int, head_dim: int, device: torch.device, precision: str) -> int:
    """Bytes that the executor takes for one head in this precision, beside the plan: what is quantised."""
    if precision == SIXTEEN:
        return 0
    return quantised_bytes(tokens, head_dim, _config(head_dim, device, torch.bfloat16, precision).values_dtype)


def _config(head_dim: int, device: torch.device, dtype: torch.dtype, precision: str = SIXTEEN):
    try:
        return tile_config("gather_attention", head_dim, device, dtype, precision)
    except NoTileConfig:  # only torch can do the work, with tiles as on a CPU
        return tile_config("gather_attention", head_dim, torch.device("cpu"), precision=precision)


def gather_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    *,
    sm_scale: float,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    backend: str = "torch",
    precision: str = SIXTEEN,
    channels: Channels | None = None,
) -> Tensor:
    """out[row] = softmax over the keys of the row's tile, and its tail, of sm_scale * q[row] k^T, times v.

    Rows are gathered by index and written at their own place: nothing is permuted or copied as a whole.

    Args:
        q, k, v: [B, H, N, D], fp16, bf16 or fp32, any strides.
        plan: lists for these heads.
        sm_scale: softmax scale, > 0.
        out: [B, H, N, D] of q's dtype to write to; made like q if None.
        lse: [B, H, N] float32 to write the natural logarithm of each row's sum of exponentials to, or None.
        backend: "torch" or "triton".
        precision: "16 bit"; "int8": q k^T in INT8; "8 bit": p v in FP8 too. The tail is in 16 bit. One that
            `nearest_precision` names for these tensors.
        channels: for fewer bits, as `measure_channels` has them for these heads and `values_dtype`; measured if None.

    Returns:
        out.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the Triton kernel failed.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f"gather_attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} must be [B, H, N, D]")
    if q.shape[3] not in HEAD_DIMS:
        raise ValueError(f"gather_attention: head_dim {q.shape[3]} must be one of {HEAD_DIMS}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"gather_attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; they must be of one dtype")
    if not q.device == k.device == v.device == plan.key_index.device:
        raise ValueError(
            f"gather_attention: q, k, v, plan are on {q.device}, {k.device}, {v.device}, {plan.key_index.device}; "
            "they must be on one device"
        )
    if tuple(plan.list_of_head.shape) != tuple(q.shape[:2]):
        raise ValueError(f"gather_attention: plan is for heads {tuple(plan.list_of_head.shape)}, q has {tuple(q.shape[:2])}")
    if DEBUG:
        _check_indices(plan, k.shape[2])
    out = torch.empty_like(q) if out is None else out
    quantised, names = None, {}
    if precision != SIXTEEN:
        values, names = values_dtype(q, precision), {"precision": precision}
        channels = measure_channels(q, k, v, values) if channels is None else channels
        quantised = quantise(q, k, v, channels, sm_scale=sm_scale, values=values, backend=backend)
    args = (q, k, v, plan, sm_scale, out, lse, quantised, precision)
    # Torch's loop is no replacement for a kernel that failed: at Wan's size it would launch 24,000 small products.
    run("gather_attention", "gather_attention", backend, *args, fallback=False, **names)
    return out


def _check_indices(plan: Plan, tokens: int) -> None:
    """Raises a ValueError if a list or an index is out of range; waits for the device."""
    begin, end = plan.key_start.flatten(), (plan.key_start + plan.key_count).flatten()
    entries = plan.key_index.numel()
    if ((begin < 0) | (begin > end) | (end > entries)).any():
        raise ValueError(f"gather_attention: lists go from {int(begin.min())} to {int(end.max())} of {entries} keys")
    one = torch.ones_like(begin)
    lists = begin.new_zeros(entries + 1).index_add_(0, begin, one).index_add_(0, end, -one).cumsum(0)
    used = lists[:-1] > 0  # in how many lists an entry stands
    for name, index in (("query_index", plan.query_index[plan.query_index != -1]), ("key_index", plan.key_index[used])):
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < tokens:
            held = f"{int(index.min())} to {int(index.max())}"
            raise ValueError(f"gather_attention: {name} holds {held}, allowed are 0 to {tokens - 1}")
