"""Token rows as the kernels address them."""

from __future__ import annotations

from torch import Tensor


def token_rows(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """x with whole rows in memory, and its batch, head and token strides counted in rows of D elements.

    A kernel multiplies the strides by HEAD_DIM, so the compiler knows that every row is aligned and moves 16 bytes
    at a time; it would otherwise have to specialise on the strides, that is, compile again for a new resolution.

    Args:
        x: [B, H, N, D]; copied only if its rows are not contiguous or do not start at multiples of D.
    """
    d = x.shape[3]
    if x.stride(3) != 1 or any(stride % d for stride, size in zip(x.stride()[:3], x.shape[:3], strict=True) if size > 1):
        x = x.contiguous()
    return x, tuple(stride // d for stride in x.stride()[:3])
