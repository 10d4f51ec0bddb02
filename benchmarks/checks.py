"""Is a result right? A few tiles of a plan against the reference: timing a wrong result would say nothing."""

from __future__ import annotations

from dataclasses import fields, replace

import measure  # noqa: F401, loads the pack
import torch
from sparse_videogen.kernels import failures
from sparse_videogen.kernels.gather_attention import gather_attention
from sparse_videogen.kernels.gather_attention.reference import gather_attention as reference
from sparse_videogen.kernels.plan import Plan
from sparse_videogen.svg_core.planned import Planned
from torch import Tensor

TOLERANCE = 3e-2  # a few roundings of bfloat16 at values of order one


class WrongResult(RuntimeError):
    """A kernel ran, and its result is not the reference's."""


def parts(planned: list[Planned]) -> list[tuple[tuple[slice, slice], Plan]]:
    """All parts of a call's plans at once, each with the heads that it is for."""
    return [part for queries in planned for part in queries.parts]


def run_plan(q: Tensor, k: Tensor, v: Tensor, plan: list, backend: str) -> Tensor:
    """The executor over a plan's `parts`."""
    out = torch.empty_like(q)
    for where, part in plan:
        gather_attention(q[where], k[where], v[where], part, sm_scale=q.shape[-1] ** -0.5, out=out[where], backend=backend)
    return out


def checked_run(q: Tensor, k: Tensor, v: Tensor, plan: list, backend: str) -> None:
    """Runs a few tiles of each of a plan's parts alone, then all of it, and compares.

    The few come first: where the kernel fails, torch does them, and all of them would take it minutes.

    Raises:
        WrongResult: a value is off by more than `TOLERANCE`, or is not finite.
        RuntimeError: the kernel failed.
    """
    expected = []
    for where, part in plan:
        x, few = [y[where][:, -1:] for y in (q, k, v)], few_tiles(part)
        expected.append(torch.full_like(x[0], float("nan")))
        reference(*x, few, q.shape[-1] ** -0.5, expected[-1], None)
        out = torch.full_like(x[0], float("nan"))
        gather_attention(*x, few, sm_scale=q.shape[-1] ** -0.5, out=out, backend=backend)
        require_kernels()
        _compare(out, expected[-1], few)
    out = run_plan(q, k, v, plan, backend)
    require_kernels()
    for (where, part), wanted in zip(plan, expected, strict=True):
        _compare(out[where][:, -1:], wanted, few_tiles(part))


def few_tiles(plan: Plan) -> Plan:
    """The first and the middle tile of the last head."""
    tiles = [0, plan.query_index.shape[1] // 2]
    s = int(plan.list_of_head[0, -1])
    tail = plan.tail
    if tail is not None:
        last = {field.name: getattr(tail, field.name) for field in fields(tail) if field.name != "cluster_mask"}
        tail = replace(
            tail,
            **{name: None if x is None else x[:, -1:] for name, x in last.items()},
            cluster_mask=tail.cluster_mask[-1:, tiles],
        )
    return Plan(
        torch.zeros_like(plan.list_of_head[:1, :1]),
        plan.query_index[s : s + 1, tiles],
        plan.key_index[s : s + 1, tiles],
        plan.key_count[s : s + 1, tiles],
        tail,
    )


def require_kernels() -> None:
    """Raises if torch had to take over from a Triton kernel: its time is not the kernel's."""
    for place, reason in failures().items():
        raise RuntimeError(f"{place}: {reason}")


def _compare(out: Tensor, expected: Tensor, few: Plan) -> None:
    rows = few.query_index[few.query_index >= 0].long()
    out, expected = out[0, 0, rows].float(), expected[0, 0, rows].float()
    if not torch.allclose(out, expected, atol=TOLERANCE, rtol=TOLERANCE):
        raise WrongResult(f"off by {(out - expected).abs().max().item():.3g}, allowed are {TOLERANCE}")
