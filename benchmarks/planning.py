"""What does planning cost, as a share of one dense attention, step after step?"""

from __future__ import annotations

from functools import partial

from measure import Rows, each_shape, interleaved, layout_of, milliseconds, parse_arguments, plan_options
from providers import dense_providers
from sparse_videogen.kernels.gather_attention import computed_blocks
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, plans, svg2

COLUMNS = ("shape", "provider", "part", "ms", "ms_p20", "ms_p80", "share_of_dense", "peak_bytes")


# What the parts of one plan are, as differences of two times: part, the longer, the shorter.
DIFFERENCES = (("choice", "plans", "k-means"), ("pairs", "all", "plans"))


def parts(shape, q, k, v) -> dict[tuple[str, str], partial]:
    """What a call in the middle of a run does before its attention, by provider and part: "all" counts its pairs, too."""
    options = plan_options(q)
    backend = options["backend"]
    layout, state, blocks = layout_of(shape), SparseState(), computed_blocks(q, backend)
    clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 2}
    config, rare = SVG2Config(**clusters), SVG2Config(**clusters, recluster_every=1_000_000)

    def all_plans(config, key, count=True):
        for queries in plans(q, k, v, config, layout, state, key, **options):
            for _ in queries.parts:
                pass
            if count:
                queries.pairs(), queries.pairs(*blocks)

    made = {(f"svg-{backend}", "all"): partial(all_plans, SVGConfig(), "svg")}
    made[f"svg2-{backend}", "all"] = partial(all_plans, config, "svg2")
    made[f"svg2-{backend}", "all, labels kept"] = partial(all_plans, rare, "rare")
    made[f"svg2-{backend}", "plans"] = partial(all_plans, config, "svg2", count=False)
    _, last = svg2.update_clusters(q, k, config, layout, None, final=True, backend=backend)
    update = partial(svg2.update_clusters, q, k, config, layout, last, final=True, backend=backend)
    made[f"svg2-{backend}", "k-means"] = update
    return made


def best_dense(q, k, v) -> dict:
    """Dense attention by its fastest provider, found by one run of each after the first."""
    dense, _ = dense_providers(q, k, v)
    best = min(dense, key=lambda name: milliseconds(dense[name], q.device))
    return {(best, "attention"): dense[best]}


def with_differences(timed: dict) -> dict:
    """The same, and what the parts are that cannot be run alone."""
    timed = dict(timed)
    for provider in {provider for provider, part in timed if part == "plans"}:
        for part, longer, shorter in DIFFERENCES:
            times = timed[provider, longer], timed[provider, shorter]
            if all("ms" in row for row in times):
                timed[provider, part] = {"ms": times[0]["ms"] - times[1]["ms"]}
    return timed


def main() -> None:
    """A row a shape and part."""
    arguments = parse_arguments(__doc__)
    table = Rows(COLUMNS, arguments.json, arguments.device)
    for name, shape, q, k, v in each_shape(arguments):
        dense = best_dense(q, k, v)
        timed = with_differences(interleaved({**dense, **parts(shape, q, k, v)}, arguments.device, arguments.repeats))
        dense_ms = timed[next(iter(dense))].get("ms", float("nan"))
        for (provider, part), times in timed.items():
            row = {"op": "planning", "shape": name, "tokens": shape.tokens, "provider": provider, "part": part, **times}
            table.add({**row, **({"share_of_dense": times["ms"] / dense_ms} if "ms" in times else {})})


if __name__ == "__main__":
    main()
