"""One call of sparse attention at a shape: its settings, its plans, and whether what they give is right.

A few tiles of a plan are compared with the reference before a time is taken: timing a wrong result would say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from measure import layout_of
from shapes import Shape
from sparse_videogen.kernels import backend_status, failures
from sparse_videogen.kernels.gather_attention import computed_blocks, gather_attention
from sparse_videogen.kernels.gather_attention.reference import gather_attention as reference
from sparse_videogen.kernels.plan import Plan, Tail
from sparse_videogen.svg_core import Call, SparseState, SVG2Config, SVGConfig, plans
from sparse_videogen.svg_core.planned import Planned
from torch import Tensor

TOLERANCE = 3e-2  # a few roundings of bfloat16 at values of order one


class WrongResult(RuntimeError):
    """A kernel ran, and its result is not the reference's."""


def svg2_config(shape: Shape, density: float | None = None, **settings) -> SVG2Config:
    """SVG2 with the shape's clusters, at a density if one is given."""
    share = {} if density is None else {"density": density}
    clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 2}
    return SVG2Config(**{**clusters, **share, **settings})


def methods(shape: Shape) -> dict:
    """Both methods with their own settings, by provider."""
    return {"svg": SVGConfig(), "svg2": svg2_config(shape)}


def call_options(config, shape: Shape, conditionings: int = 1) -> dict:
    """What `sparse_attention` takes beside q, k, v; its state is that of the calls that share these options."""
    options = {"config": config, "layout": layout_of(shape), "state": SparseState(), "key": 0}
    return options | {"conditionings": conditionings}


def backend_of(q: Tensor) -> str:
    """The backend that `sparse_attention` chooses for q [B, H, N, D]."""
    return backend_status(q.device, q.dtype, q.shape[3])[0]


def planned(q: Tensor, k: Tensor, v: Tensor, options: dict) -> list[Planned]:
    """The plans of the call with these `call_options`, as `sparse_attention` makes them."""
    call = Call.of(q, options["config"], options["layout"], conditionings=options["conditionings"])
    return plans(q, k, v, call, options["state"], options["key"])


def require_kernels() -> None:
    """Raises if torch had to take over from a Triton kernel: its time is not the kernel's."""
    for place, reason in failures().items():
        raise RuntimeError(f"{place}: {reason}")


@dataclass(frozen=True)
class PlannedCall:
    """A first call whose plans were made before, so that the executor runs alone.

    Attributes:
        parts: (where, plan), each for q[where].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    parts: list[tuple[tuple[slice, slice], Plan]]

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, config, shape: Shape, conditionings: int = 1) -> PlannedCall:
        """With all of its plans at once."""
        made = planned(q, k, v, call_options(config, shape, conditionings))
        return cls(q, k, v, [part for queries in made for part in queries.parts])

    def without_tail(self) -> PlannedCall:
        """The same lists, without what stands for the other keys."""
        return replace(self, parts=[(where, replace(plan, tail=None)) for where, plan in self.parts])

    def run(self) -> Tensor:
        """The executor over all parts."""
        out = torch.empty_like(self.q)
        for where, plan in self.parts:
            gather(self.q[where], self.k[where], self.v[where], plan, out[where])
        return out

    def density(self, block_m: int = 1, block_n: int = 1) -> float:
        """(query, key) pairs as a share of all; rows and keys counted in whole blocks."""
        pairs = sum(plan.pairs(block_m, block_n).sum().item() for _, plan in self.parts)
        return pairs / (self.q[..., 0].numel() * self.k.shape[2])

    def computed(self) -> float:
        """The same with what the executor pads."""
        return self.density(*computed_blocks(self.q, backend_of(self.q)))

    def check(self) -> None:
        """Runs a few tiles of each part alone, then all of it, and compares.

        The few come first: where the kernel fails, torch does them, and all of them would take it minutes.

        Raises:
            WrongResult: a value is off by more than `TOLERANCE`, or is not finite.
            RuntimeError: the kernel failed.
        """
        checked = []
        for where, plan in self.parts:
            (q, k, v), few = (x[where][:, -1:] for x in (self.q, self.k, self.v)), _few_tiles(plan)
            expected, out = (torch.full_like(q, float("nan")) for _ in range(2))
            reference(q, k, v, few, q.shape[-1] ** -0.5, expected, None)
            gather(q, k, v, few, out)
            require_kernels()
            _compare(out, expected, few)
            checked.append((where, expected, few))
        out = self.run()
        require_kernels()
        for where, expected, few in checked:
            _compare(out[where][:, -1:], expected, few)


def gather(q: Tensor, k: Tensor, v: Tensor, plan: Plan, out: Tensor) -> None:
    """The executor over one plan, writing to out."""
    gather_attention(q, k, v, plan, sm_scale=q.shape[-1] ** -0.5, out=out, backend=backend_of(q))


def _few_tiles(plan: Plan) -> Plan:
    """The first and the middle tile of the last head."""
    tiles, tail = [0, plan.query_index.shape[1] // 2], plan.tail
    last = plan.list_of_head[:1, -1:]
    if tail is not None:
        terms = (x if x is None else x[:, -1:] for x in (tail.k_mean, tail.k_variance, tail.v_mean, tail.log_size))
        tail = Tail(*terms, tail.cluster_mask[-1:, tiles])
    rows, *lists = (x[last[0].long()][:, tiles] for x in (plan.query_index, plan.key_start, plan.key_count))
    return Plan(torch.zeros_like(last), rows, plan.key_index, *lists, tail)


def _compare(out: Tensor, expected: Tensor, few: Plan) -> None:
    rows = few.query_index[few.query_index >= 0].long()
    out, expected = out[0, 0, rows].float(), expected[0, 0, rows].float()
    if not torch.allclose(out, expected, atol=TOLERANCE, rtol=TOLERANCE):
        raise WrongResult(f"off by {(out - expected).abs().max().item():.3g}, allowed are {TOLERANCE}")
