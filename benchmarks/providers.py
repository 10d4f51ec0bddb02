"""Attention as users would otherwise run it. What is not installed is reported as missing, not skipped silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from device import milliseconds, on_gpu, tried
from torch.nn.attention import SDPBackend, sdpa_kernel

SDPA_BACKENDS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True)
class Provider:
    """What is timed.

    Attributes:
        run: returns out [B, H, N, D].
        density, computed: (query, key) pairs, and these with padding, as shares of all.
        has_error: its result is an estimate of dense attention, so its error says something.
    """

    run: Callable
    density: float = 1.0
    computed: float = 1.0
    has_error: bool = True


def dense_providers(q, k, v) -> tuple[dict[str, Provider], dict[str, dict]]:
    """Dense attention by provider, and what is missing as `tried` says it."""
    if not on_gpu(q.device):
        return {"sdpa": Provider(lambda: F.scaled_dot_product_attention(q, k, v))}, {}
    builders = {name: partial(_sdpa, q, k, v, backend) for name, backend in SDPA_BACKENDS.items()}
    return tried(builders | {"sageattention": partial(_sage, q, k, v)})


def best_dense(q, k, v) -> tuple[str, Callable]:
    """Dense attention by its fastest provider, found by one run of each after the first."""
    providers, _ = dense_providers(q, k, v)
    best = min(providers, key=lambda name: milliseconds(providers[name].run, q.device))
    return best, providers[best].run


def masked_providers(q, k, v, density: float) -> tuple[dict[str, Provider], dict[str, dict]]:
    """Sparse attention of others at about this density, and what is missing."""
    if not on_gpu(q.device):
        return {}, {}
    builders = {"flex-attention": _flex_attention, "flashinfer": _flashinfer, "sol-attn": _sol_attn}
    return tried({name: partial(_masked, build, q, k, v, density) for name, build in builders.items()})


def _sdpa(q, k, v, backend: SDPBackend) -> Provider:
    def run():
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    run()
    return Provider(run)


def _sage(q, k, v) -> Provider:
    from sageattention import sageattn

    sageattn(q, k, v)
    return Provider(lambda: sageattn(q, k, v))


def _masked(build: Callable, q, k, v, density: float) -> Provider:
    run, reached = build(q, k, v, density)
    run()
    return Provider(run, reached, reached, has_error=False)


def _flex_attention(q, k, v, density: float):
    """A diagonal band of this density: 2 w N - w^2 = density N^2."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n = q.shape[2]
    # A number would be compiled in, anew for each density.
    width = torch.tensor(round(n * (1 - (1 - density) ** 0.5)), device=q.device)
    # Compiled, for it would otherwise make n x n tensors: 45 GB at 75,600 tokens.
    mask = create_block_mask(lambda b, h, i, j: (i - j).abs() <= width, None, None, n, n, device=q.device, _compile=True)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask), 1 - mask.sparsity() / 100


def _flashinfer(q, k, v, density: float):
    """The kernel of the authors' SVG2: variable block sizes; here 300 x 1000 blocks of near equal size, chosen at random."""
    import flashinfer

    heads, tokens, head_dim = q.shape[1:]
    rows, columns = 300, 1000
    rng = torch.Generator(device=q.device).manual_seed(0)
    chosen = torch.rand(heads, rows, columns, device=q.device, generator=rng) < density
    row_sizes, column_sizes = (
        torch.diff(torch.linspace(0, tokens, count + 1, device=q.device).round()).int().expand(heads, -1).contiguous()
        for count in (rows, columns)
    )
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=q.device)
    wrapper = flashinfer.VariableBlockSparseAttentionWrapper(workspace, backend="auto")
    wrapper.plan(
        block_mask_map=chosen,
        block_row_sz=row_sizes,
        block_col_sz=column_sizes,
        num_qo_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        q_data_type=q.dtype,
    )
    packed = [x[0].contiguous() for x in (q, k, v)]
    return lambda: wrapper.run(*packed), chosen.float().mean().item()


def _sol_attn(q, k, v, density: float):
    import comfy_kitchen

    packed = [x.contiguous() for x in (q, k, v)]
    return lambda: comfy_kitchen.sol_attn(*packed, keep_percent=100 * density), density
