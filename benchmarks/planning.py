"""What does planning cost, as a share of one dense attention, step after step?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from calls import backend_of, call_options, planned, svg2_config
from device import interleaved
from measure import inputs, layout_of, parse_arguments, run
from providers import best_dense
from shapes import Shape
from sparse_videogen.kernels.gather_attention import computed_blocks
from sparse_videogen.svg_core import Call, SVGConfig
from sparse_videogen.svg_core.clusters import update_clusters

COLUMNS = ("shape", "provider", "part", "ms", "ms_p20", "ms_p80", "share_of_dense", "peak_bytes")
# What the parts of one plan are, as differences of two times: part, the longer, the shorter.
DIFFERENCES = (("choice", "plans", "k-means"), ("pairs", "all", "plans"))


def all_plans(q, k, v, options: dict, count: bool) -> None:
    """What a call in the middle of a run does before its attention; to `count` its pairs is the last of it."""
    for queries in planned(q, k, v, options):
        for _ in queries.parts:
            pass
        if count:
            queries.pairs(), queries.pairs(*computed_blocks(q, backend_of(q)))


def parts(shape: Shape, q, k, v) -> dict[tuple[str, str], Callable]:
    """What is timed, by provider and part."""
    backend, config = backend_of(q), svg2_config(shape)
    svg, middle, rare = (
        call_options(each, shape) for each in (SVGConfig(), config, svg2_config(shape, recluster_every=1_000_000))
    )
    update = partial(update_clusters, q, k, Call.of(q, config, layout_of(shape)), final=True)
    return {
        (f"svg-{backend}", "all"): partial(all_plans, q, k, v, svg, True),
        (f"svg2-{backend}", "all"): partial(all_plans, q, k, v, middle, True),
        (f"svg2-{backend}", "all, labels kept"): partial(all_plans, q, k, v, rare, True),
        (f"svg2-{backend}", "plans"): partial(all_plans, q, k, v, middle, False),
        (f"svg2-{backend}", "k-means"): partial(update, update(last=None)[1]),
    }


def with_differences(timed: dict) -> dict:
    """The same, and what the parts are that cannot be run alone."""
    timed = dict(timed)
    for provider in [provider for provider, part in timed if part == "plans"]:
        for part, *of_parts in DIFFERENCES:
            longer, shorter = (timed[provider, each].get("ms") for each in of_parts)
            if longer and shorter:
                timed[provider, part] = {"ms": longer - shorter}
    return timed


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """A row a part, and one of dense attention."""
    q, k, v = inputs(shape, arguments.device)
    best, dense = best_dense(q, k, v)
    timed = with_differences(
        interleaved({(best, "attention"): dense, **parts(shape, q, k, v)}, arguments.device, arguments.repeats)
    )
    dense_ms = timed[best, "attention"].get("ms", float("nan"))
    for (provider, part), times in timed.items():
        share = {"share_of_dense": times["ms"] / dense_ms} if "ms" in times else {}
        yield {"provider": provider, "part": part, **times, **share}


if __name__ == "__main__":
    run("planning", COLUMNS, rows_of, parse_arguments(__doc__))
