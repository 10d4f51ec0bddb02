"""What does planning cost, as a share of one dense attention, step after step?"""

from __future__ import annotations

from functools import partial

from measure import Rows, each_shape, interleaved, layout_of, parse_arguments, plan_options
from providers import dense_providers
from sparse_videogen.kernels import choose_backend
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, plans, svg2

COLUMNS = ("shape", "provider", "part", "ms", "ms_p20", "ms_p80", "share_of_dense", "peak_bytes")


def parts(shape, q, k, v) -> dict[tuple[str, str], partial]:
    """What a call in the middle of a run does before its attention, by provider and part."""
    backend = choose_backend("auto", q.device)
    options = plan_options(q)
    layout, state = layout_of(shape), SparseState()
    clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 2}
    config, rare = SVG2Config(**clusters), SVG2Config(**clusters, recluster_every=1_000_000)

    def all_plans(config, key):
        for _ in plans(q, k, v, config, layout, state, key, **options):
            pass

    made = {(f"svg-{backend}", "all"): partial(all_plans, SVGConfig(), "svg")}
    made[f"svg2-{backend}", "all"] = partial(all_plans, config, "svg2")
    made[f"svg2-{backend}", "all, labels kept"] = partial(all_plans, rare, "rare")
    _, last = svg2.update_clusters(q, k, config, layout, None, final=True, backend=backend)
    update = partial(svg2.update_clusters, q, k, config, layout, last, final=True, backend=backend)
    made[f"svg2-{backend}", "k-means"] = update
    return made


def main() -> None:
    """A row a shape and part."""
    arguments = parse_arguments(__doc__)
    table = Rows(COLUMNS, arguments.json, arguments.device)
    for name, shape, q, k, v in each_shape(arguments):
        dense, _ = dense_providers(q, k, v)
        timed = interleaved({**dense, **parts(shape, q, k, v)}, arguments.device, arguments.repeats)
        dense_ms = min(timed[provider]["ms"] for provider in dense)
        for key, times in timed.items():
            provider, part = (key, "attention") if key in dense else key
            row = {"op": "planning", "shape": name, "tokens": shape.tokens, "provider": provider, "part": part, **times}
            table.add({**row, "share_of_dense": times["ms"] / dense_ms})


if __name__ == "__main__":
    main()
