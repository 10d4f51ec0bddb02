"""What a plan says, as a boolean mask, and attention under such a mask: the naive things that plans replace."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from sparse_videogen.kernels.plan import Plan
from sparse_videogen.svg_core import VideoLayout
from torch import Tensor


def joined(planned) -> Plan:
    """The parts of what a planner made as one plan for all heads, without tails."""
    parts = [plan for _, plan in planned.parts]
    sizes = [len(plan.key_index) for plan in parts]
    starts = torch.cat([plan.key_start + sum(sizes[:i]) for i, plan in enumerate(parts)])
    lists = {name: torch.cat([getattr(plan, name) for plan in parts]) for name in ("query_index", "key_index", "key_count")}
    return Plan(planned.list_of_head, key_start=starts, **lists)


def plan_mask(plans: list, tokens: int) -> Tensor:
    """[B, H, N, N] bool: query row n reads key m. Fails if a row is in two tiles or none, or a key twice in a list."""
    b, h = plans[0].list_of_head.shape
    mask = torch.zeros(b, h, tokens, tokens, dtype=torch.bool, device=plans[0].key_index.device)
    for i in range(b):
        for j in range(h):
            seen = []
            for plan, t in ((part, t) for part in plans for t in range(part.query_index.shape[1])):
                s = int(plan.list_of_head[i, j])
                rows = plan.query_index[s, t]
                rows = rows[rows >= 0].long()
                keys = plan.key_index[plan.key_start[s, t] :][: plan.key_count[s, t]].long()
                assert keys.unique().numel() == keys.numel(), "a key stands twice in a list"
                seen += rows.tolist()
                mask[i, j, rows.unsqueeze(1), keys] = True
            assert sorted(seen) == list(range(tokens)), "a query row is in no tile or in two"
    return mask


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Dense attention with a boolean mask, float64."""
    scores = (q.double() @ k.double().transpose(2, 3)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v.double()


def assert_exact(out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> None:
    """`out` is masked attention, at most twice as far from float64 as torch's own is in this dtype.

    The floor, 4 roundings at the size of the values, is for inputs where torch happens to be nearly exact.
    """
    exact = masked_attention(q, k, v, mask)
    torchs = (F.scaled_dot_product_attention(q, k, v, attn_mask=mask).double() - exact).abs().max()
    floor = 4 * torch.finfo(q.dtype).eps * v.abs().max()
    assert (out.double() - exact).abs().max() <= 2 * torchs + floor


def text_rows(layout) -> Tensor:
    """[N] bool, True for text tokens."""
    text = torch.ones(layout.tokens, dtype=torch.bool)
    text[layout.video] = False
    return text


@st.composite
def any_layout(draw) -> VideoLayout:
    """Small layouts: text on either side, some of it masked."""
    sizes = [draw(st.integers(1, most)) for most in (6, 7, 7)]
    before, after = draw(st.integers(0, 9)), draw(st.integers(0, 20))
    plain = VideoLayout(*sizes, before, after)
    text = text_rows(plain).nonzero().flatten().tolist()
    masked = draw(st.sets(st.sampled_from(text))) if text else ()
    return VideoLayout(*sizes, before, after, tuple(sorted(masked)))
