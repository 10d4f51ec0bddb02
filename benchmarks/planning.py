"""What does planning cost, as a share of one dense attention, step after step?

SVG2's call holds a video's cond and uncond, which share their clusters and their choice, and has one k-means iteration; the
dense attention beside it is that of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import Mock, patch

import torch
from calls import PlannedCall, backend_of, call_options, planned, svg2_config
from device import interleaved
from measure import inputs, layout_of, parse_arguments, run
from providers import best_dense
from shapes import CONDITIONINGS, Shape
from sparse_videogen.kernels.gather_attention import computed_blocks
from sparse_videogen.svg_core import Call, SVGConfig, choice, svg2
from sparse_videogen.svg_core.clusters import update_clusters
from sparse_videogen.svg_core.planned import rows_of_tiles

COLUMNS = ("shape", "provider", "part", "ms", "ms_p20", "ms_p80", "share_of_dense", "peak_bytes")
# What cannot be run alone, as the difference of a time and others: part, the longer, the shorter.
DIFFERENCES = (
    ("score", "choice", "budget"),
    ("lists", "plans", "k-means", "tiles", "moments of v", "choice"),
    ("pairs", "all", "plans"),
    ("all but score", "all", "score"),
    ("tail", "attention with the tail", "attention"),
)


def all_plans(q, k, v, options: dict, count: bool) -> None:
    """What a call in the middle of a run does before its attention; to `count` its pairs is the last of it."""
    for queries in planned(q, k, v, options):
        for _ in queries.parts:
            pass
        if count:
            queries.pairs(), queries.pairs(*computed_blocks(q, backend_of(q)))


def parts(shape: Shape, q, k, v) -> dict[tuple[str, str], Callable]:
    """What is timed, by provider and part."""
    backend, config = backend_of(q), config_for(shape)
    svg, middle, rare = (
        call_options(each, shape, CONDITIONINGS) for each in (SVGConfig(), config, config_for(shape, recluster_every=1_000_000))
    )
    with_tail = PlannedCall.of(q, k, v, config, shape, CONDITIONINGS)
    named = {
        "all": partial(all_plans, q, k, v, middle, True),
        "all, labels kept": partial(all_plans, q, k, v, rare, True),
        "plans": partial(all_plans, q, k, v, middle, False),
        "attention with the tail": with_tail.run,
        "attention": with_tail.without_tail().run,
        **alone(q, k, v, Call.of(q, config, layout_of(shape), conditionings=CONDITIONINGS)),
    }
    return {(f"svg-{backend}", "all"): partial(all_plans, q, k, v, svg, True)} | {
        (f"svg2-{backend}", part): function for part, function in named.items()
    }


def config_for(shape: Shape, **settings):
    """SVG2 at a quarter of all pairs."""
    return svg2_config(shape, 0.25, **settings)


def alone(q, k, v, call: Call) -> dict[str, Callable]:
    """The parts of SVG2's planning that can be run alone, on what the parts before them gave."""
    update = partial(update_clusters, q, k, call, final=True)
    clusters, last = update(last=None)
    tiles = partial(svg2.query_tiles, q, clusters, call)
    rows = rows_of_tiles(tiles())
    moments = partial(svg2.v_moments, v[:, :, call.layout.video], clusters, call)
    density = torch.full(rows.shape[:2], call.config.density, device=q.device)
    chosen = partial(choice.by_error, q, tiles(), rows, clusters, moments(), density, call)
    with patch.object(choice, "spend", Mock(wraps=choice.spend)) as spent:
        chosen()
    (args, options), scores = spent.call_args, spent.call_args.args[0]
    budget = partial(choice.spend, scores.clone(), *args[1:], **options)
    return {"k-means": partial(update, last=last), "tiles": tiles, "moments of v": moments, "choice": chosen, "budget": budget}


def with_differences(timed: dict) -> dict:
    """The same, and what the parts are that cannot be run alone."""
    timed = dict(timed)
    for provider in [provider for provider, part in timed if part == "plans"]:
        for part, longer, *shorter in DIFFERENCES:
            minuend, *others = (timed.get((provider, each), {}).get("ms") for each in (longer, *shorter))
            if None not in (minuend, *others):
                timed[provider, part] = {"ms": minuend - sum(others)}
    return timed


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """A row a part, and one of dense attention."""
    q, k, v = inputs(shape, arguments.device, conditionings=CONDITIONINGS)
    best, dense = best_dense(q, k, v)
    timed = with_differences(
        interleaved({(best, "attention"): dense, **parts(shape, q, k, v)}, arguments.device, arguments.repeats)
    )
    dense_ms = timed[best, "attention"].get("ms", float("nan"))
    for (provider, part), times in timed.items():
        share = {"share_of_dense": times["ms"] / dense_ms} if "ms" in times else {}
        yield {"provider": provider, "part": part, "conditionings": CONDITIONINGS, **times, **share}


if __name__ == "__main__":
    run("planning", COLUMNS, rows_of, parse_arguments(__doc__))
