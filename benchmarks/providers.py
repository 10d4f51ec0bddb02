"""Attention as users would otherwise run it. What is not installed is reported as missing, not skipped silently."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import on_gpu, reason
from shapes import Shape
from torch.nn.attention import SDPBackend, sdpa_kernel

SDPA_BACKENDS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def dense_providers(q, k, v) -> tuple[dict[str, Callable], dict[str, str]]:
    """Dense attention by provider, and the reason for each that cannot run here."""
    if not on_gpu(q.device):
        return {"sdpa": lambda: F.scaled_dot_product_attention(q, k, v)}, {}

    def sdpa(backend):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    candidates = {name: lambda backend=backend: sdpa(backend) for name, backend in SDPA_BACKENDS.items()}
    if importlib.util.find_spec("sageattention") is not None:
        from sageattention import sageattn

        candidates["sageattention"] = lambda: sageattn(q, k, v)
    works, missing = _try(candidates)
    if "sageattention" not in candidates:
        missing["sageattention"] = "not installed"
    return works, missing


def masked_providers(q, k, v, shape: Shape, density: float) -> tuple[dict, dict[str, str]]:
    """Sparse attention of others at about this density: name -> (function, density), and what is missing."""
    if not on_gpu(q.device):
        return {}, {}
    works, missing = {}, {}
    builders = {"flex-attention": _flex_attention, "flashinfer": _flashinfer, "sol-attn": _sol_attn}
    for name, build in builders.items():
        try:
            function, reached = build(q, k, v, density)
            function()
            works[name] = (function, reached)
        except Exception as error:  # a peer that fails is a line of the table
            missing[name] = reason(error)
    return works, missing


def _band_width(tokens: int, density: float) -> int:
    """Half-width of a diagonal band of this density: 2 w N - w^2 = density N^2."""
    return round(tokens * (1 - (1 - density) ** 0.5))


def _flex_attention(q, k, v, density: float):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n = q.shape[2]
    width = torch.tensor(_band_width(n, density), device=q.device)  # a number would be compiled in, anew for each density
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
    sizes = [
        torch.diff(torch.linspace(0, tokens, count + 1, device=q.device).round()).int().expand(heads, -1).contiguous()
        for count in (rows, columns)
    ]
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=q.device)
    wrapper = flashinfer.VariableBlockSparseAttentionWrapper(workspace, backend="auto")
    wrapper.plan(
        block_mask_map=chosen,
        block_row_sz=sizes[0],
        block_col_sz=sizes[1],
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


def _try(candidates: dict[str, Callable]) -> tuple[dict[str, Callable], dict[str, str]]:
    works, missing = {}, {}
    for name, function in candidates.items():
        try:
            function()
            works[name] = function
        except Exception as error:  # likewise
            missing[name] = reason(error)
    return works, missing
