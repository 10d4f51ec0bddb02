"""How fast does attention run at a density, its plan excluded, against dense attention as users run it?"""

from __future__ import annotations

from functools import partial

import torch
from measure import Rows, each_shape, interleaved, layout_of, parse_arguments, plan_options
from providers import dense_providers, masked_providers
from shapes import SHAPES, Shape
from sparse_videogen.kernels import choose_backend
from sparse_videogen.kernels.gather_attention import Plan, computed_blocks, gather_attention
from sparse_videogen.kernels.gather_attention.reference import gather_attention as reference
from sparse_videogen.kernels.sample_rows import sample_rows
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, plans
from sparse_videogen.svg_core.sampling import stratified

# speedup: over the best dense provider; efficiency: what the speedup is of what the computed share would allow.
COLUMNS = (
    "shape",
    "provider",
    "density",
    "computed",
    "ms",
    "ms_p20",
    "ms_p80",
    "tflops",
    "efficiency",
    "speedup",
    "error",
    "missing",
)


def plans_at(shape: Shape, q, k, v, density: float) -> dict[str, list]:
    """Plans of about this density, by name: SVG's, SVG2's, and SVG2's with its tail; [(heads, plan), ...]."""
    layout = layout_of(shape)
    options = plan_options(q)
    clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 4}
    made = {"svg": list(plans(q, k, v, SVGConfig(sparsity=1 - density), layout, SparseState(), 0, **options))}
    for name, tail in (("svg2", "off"), ("svg2+tail", "second_order")):
        config = SVG2Config(top_p=1.0 if density == 1 else 1e-3, min_keep=density, tail=tail, **clusters)
        made[name] = list(plans(q, k, v, config, layout, SparseState(), 0, **options))
    return made


def run_plan(q, k, v, plan: list, backend: str):
    """The executor over a plan's groups of heads."""
    out = torch.empty_like(q)
    for heads, part in plan:
        gather_attention(
            q[:, heads], k[:, heads], v[:, heads], part, sm_scale=q.shape[-1] ** -0.5, out=out[:, heads], backend=backend
        )
    return out


def check(out, q, k, v, plan: list) -> None:
    """Raises unless two tiles of a head equal the reference; timing a wrong result would say nothing."""
    heads, part = plan[-1]
    head = heads.start or 0
    q, k, v, out = (x[:, head : head + 1] for x in (q, k, v, out))
    tiles = [0, part.query_index.shape[1] // 2]
    tail = part.tail
    if tail is not None:
        tail = type(tail)(
            tail.k_mean[:, :1],
            None if tail.k_variance is None else tail.k_variance[:, :1],
            tail.v_mean[:, :1],
            tail.size[:, :1],
            tail.kept[:1, tiles],
        )
    s = int(part.set_of_head[0, 0])
    few = Plan(
        torch.zeros_like(part.set_of_head[:1, :1]),
        part.query_index[s : s + 1, tiles],
        part.key_index[s : s + 1, tiles],
        part.key_count[s : s + 1, tiles],
        tail,
    )
    expected = torch.zeros_like(q)
    reference(q, k, v, few, q.shape[-1] ** -0.5, expected, None)
    rows = few.query_index[few.query_index >= 0].long()
    torch.testing.assert_close(out[0, 0, rows], expected[0, 0, rows], atol=3e-2, rtol=3e-2)


def rows_at(name: str, density: float, q, k, v, dense: dict, repeats: int):
    """The rows of one shape at one density: dense, ours, and others' sparse attention; what is missing first."""
    shape, device = SHAPES[name], q.device
    backend = choose_backend("auto", device)
    made = {f"{kind}-{backend}": plan for kind, plan in plans_at(shape, q, k, v, density).items()}
    for plan in made.values():
        check(run_plan(q, k, v, plan, backend), q, k, v, plan)
    masked, missing = masked_providers(q, k, v, shape, density)
    for provider, reason in missing.items():
        yield {"provider": provider, "density": density, "missing": reason}

    functions = {**dense, **{kind: partial(run_plan, q, k, v, plan, backend) for kind, plan in made.items()}}
    functions |= {kind: function for kind, (function, _) in masked.items()}
    timed = interleaved(functions, device.type, repeats)
    best_dense_ms = min(timed[provider]["ms"] for provider in dense)
    dense_flops = 4 * shape.heads * shape.head_dim * shape.tokens**2
    sampled = stratified(64, shape.tokens - shape.text, device)
    exact = sample_rows(q, k, v, sampled, sm_scale=shape.head_dim**-0.5)[:, :, 0]
    for provider, times in timed.items():
        reached = computed = 1.0 if provider in dense else masked[provider][1] if provider in masked else None
        if provider in made:
            blocks = computed_blocks(q, backend)
            all_pairs = shape.heads * shape.tokens**2
            reached = sum(part.pairs().sum().item() for _, part in made[provider]) / all_pairs
            computed = sum(part.pairs(*blocks).sum().item() for _, part in made[provider]) / all_pairs
        row = {"provider": provider, "density": reached, "computed": computed, **times}
        if provider not in masked:
            out = functions[provider]().index_select(2, sampled).float()
            row["error"] = ((out - exact).norm() / exact.norm()).item()
        row["tflops"] = reached * dense_flops / times["ms"] / 1e9
        row["speedup"] = best_dense_ms / times["ms"]
        row["efficiency"] = computed * row["speedup"]
        yield row


def main() -> None:
    """A row a shape, provider and density."""
    arguments = parse_arguments(__doc__)
    table = Rows(COLUMNS, arguments.json, arguments.device)
    for name, shape, q, k, v in each_shape(arguments):
        common = {"op": "attention", "shape": name, "tokens": shape.tokens}
        dense, missing = dense_providers(q, k, v)
        for provider, reason in missing.items():
            table.add({**common, "provider": provider, "missing": reason})
        for density in arguments.densities:
            for row in rows_at(name, density, q, k, v, dense, arguments.repeats):
                table.add({**common, **row})


if __name__ == "__main__":
    main()
