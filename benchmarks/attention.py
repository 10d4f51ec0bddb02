"""How fast does attention run at a density, against dense attention as users run it: its kernel alone, and the whole call?

A provider that cannot run, or whose result is wrong, is a row with the reason, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from checks import checked_run, parts, require_kernels, run_plan
from measure import Rows, each_shape, interleaved, layout_of, out_of_time, parse_arguments, plan_options, reason
from providers import dense_providers, masked_providers
from shapes import Shape
from sparse_videogen.kernels.exact_rows import exact_rows
from sparse_videogen.kernels.gather_attention import computed_blocks
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, plans, sparse_attention
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
)


@dataclass(frozen=True)
class Provider:
    """What is timed.

    Attributes:
        function: returns out [B, H, N, D].
        density, computed: (query, key) pairs, and these with padding, as shares of all.
        has_error: its result is an estimate of dense attention, so its error says something.
    """

    function: Callable
    density: float
    computed: float
    has_error: bool = True


def configs_at(shape: Shape, density: float) -> dict:
    """Settings that give about this density, by name: SVG's, SVG2's, and SVG2's with its tail."""
    clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 4}
    share = {"top_p": 1.0 if density == 1 else 1e-3, "min_keep": density}
    made = {"svg": SVGConfig(sparsity=1 - density)}
    tails = {"svg2": "off", "svg2+tail": "second_order"}
    return made | {name: SVG2Config(**share, **clusters, tail=tail) for name, tail in tails.items()}


def kernel_alone(q, k, v, config, shape: Shape) -> Provider:
    """The executor over plans made before; raises if it fails or is wrong."""
    options = plan_options(q)
    plan = parts(plans(q, k, v, config, layout_of(shape), SparseState(), 0, **options))
    checked_run(q, k, v, plan, options["backend"])
    blocks, all_pairs = computed_blocks(q, options["backend"]), shape.heads * shape.tokens**2
    density = sum(part.pairs().sum().item() for _, part in plan) / all_pairs
    computed = sum(part.pairs(*blocks).sum().item() for _, part in plan) / all_pairs
    return Provider(partial(run_plan, q, k, v, plan, options["backend"]), density, computed)


def whole_call(q, k, v, config, shape: Shape) -> Provider:
    """What a node calls in the middle of a run: planning with the last call's state, and the executor."""
    call = partial(sparse_attention, q, k, v, config=config, layout=layout_of(shape), state=SparseState(), key=0)
    _, stats = call()
    require_kernels()
    return Provider(lambda: call()[0], stats.density.mean().item(), stats.computed.mean().item())


def sparse_providers(q, k, v, shape: Shape, density: float) -> tuple[dict[str, Provider], dict[str, str]]:
    """Ours and others' at about this density, and the reason for each that cannot run."""
    backend, configs = plan_options(q)["backend"], configs_at(shape, density)
    builders = {f"{kind}-{backend}": partial(kernel_alone, q, k, v, config, shape) for kind, config in configs.items()}
    builders |= {f"{kind}-{backend}-call": partial(whole_call, q, k, v, configs[kind], shape) for kind in ("svg", "svg2+tail")}
    works, missing = {}, {}
    for name, build in builders.items():
        try:
            works[name] = build()
        except Exception as error:  # one that fails or is wrong is a line of the table
            missing[name] = reason(error)
    masked, missing_masked = masked_providers(q, k, v, shape, density)
    works |= {name: Provider(function, reached, reached, has_error=False) for name, (function, reached) in masked.items()}
    return works, missing | missing_masked


def measured(providers: dict[str, Provider], q, k, v, shape: Shape, repeats: int, best_dense_ms: float | None = None):
    """A row a provider: times, and what follows from them; dense ones are compared with the best of themselves."""
    timed = interleaved({name: provider.function for name, provider in providers.items()}, q.device, repeats)
    if best_dense_ms is None:
        best_dense_ms = min((times["ms"] for times in timed.values() if "ms" in times), default=float("nan"))
    dense_flops = 4 * shape.heads * shape.head_dim * shape.tokens**2
    sampled = stratified(64, shape.tokens - shape.text, q.device)
    exact = exact_rows(q, k, v, sampled, sm_scale=shape.head_dim**-0.5)[:, :, 0]
    for name, times in timed.items():
        provider = providers[name]
        row = {"provider": name, "density": provider.density, "computed": provider.computed, **times}
        if "ms" in times:
            row["tflops"] = provider.density * dense_flops / times["ms"] / 1e9
            row["speedup"] = best_dense_ms / times["ms"]
            row["efficiency"] = provider.computed * row["speedup"]
            if provider.has_error:
                out = provider.function().index_select(2, sampled).float()
                row["error"] = ((out - exact).norm() / exact.norm()).item()
        yield row


def rows_of(shape: Shape, q, k, v, arguments):
    """The rows of one shape: dense once, then all that is sparse at each density."""
    dense, missing = dense_providers(q, k, v)
    yield from ({"provider": name, "missing": why} for name, why in missing.items())
    rows = list(measured({name: Provider(run, 1.0, 1.0) for name, run in dense.items()}, q, k, v, shape, arguments.repeats))
    yield from rows
    best_dense_ms = min((row["ms"] for row in rows if "ms" in row), default=float("nan"))
    for density in arguments.densities:
        if out_of_time(arguments):
            yield {"provider": "all", "density": density, "missing": f"--seconds {arguments.seconds:g} were over"}
            continue
        works, missing = sparse_providers(q, k, v, shape, density)
        yield from ({"provider": name, "density": density, "missing": why} for name, why in missing.items())
        yield from measured(works, q, k, v, shape, arguments.repeats, best_dense_ms)


def main() -> None:
    """A row a shape, provider and density."""
    arguments = parse_arguments(__doc__)
    table = Rows(COLUMNS, arguments.json, arguments.device)
    for name, shape, q, k, v in each_shape(arguments):
        for row in rows_of(shape, q, k, v, arguments):
            table.add({"op": "attention", "shape": name, "tokens": shape.tokens, **row})


if __name__ == "__main__":
    main()
