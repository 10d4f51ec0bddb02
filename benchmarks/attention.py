"""How fast does attention run at a density, against dense attention as users run it: its kernel alone, and the whole call?

A provider that cannot run, or whose result is wrong, is a row with the reason, and the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from calls import PlannedCall, backend_of, call_options, require_kernels, svg2_config
from device import interleaved, tried
from measure import inputs, out_of_time, parse_arguments, run
from providers import Provider, dense_providers, masked_providers
from shapes import Shape
from sparse_videogen.kernels.exact_rows import exact_rows
from sparse_videogen.svg_core import SVGConfig, sparse_attention
from sparse_videogen.svg_core.sampling import stratified

# speedup: over the best dense provider; efficiency: what the speedup is of what the computed share would allow.
COLUMNS = (
    *("shape", "provider", "density", "computed", "ms", "ms_p20", "ms_p80"),
    *("tflops", "efficiency", "speedup", "error"),
)


def kernel_alone(q, k, v, config, shape: Shape) -> Provider:
    """The executor over plans made before; raises if it fails or is wrong."""
    call = PlannedCall.of(q, k, v, config, shape)
    call.check()
    return Provider(call.run, call.density(), call.computed())


def whole_call(q, k, v, config, shape: Shape) -> Provider:
    """What a node calls in the middle of a run: planning with the last call's state, and the executor."""
    call = partial(sparse_attention, q, k, v, **call_options(config, shape))
    _, stats = call()
    require_kernels()
    return Provider(lambda: call()[0], stats.density.mean().item(), stats.computed.mean().item())


def sparse_providers(q, k, v, shape: Shape, density: float) -> tuple[dict[str, Provider], dict[str, dict]]:
    """Ours and others' at about this density, and what is missing."""
    configs = {"svg": SVGConfig(sparsity=1 - density)}
    for name, tail in (("svg2", "off"), ("svg2+tail", "second_order")):
        configs[name] = svg2_config(shape, density, kmeans_init_iters=4, tail=tail)
    backend, given = backend_of(q), (q, k, v)
    builders = {f"{name}-{backend}": partial(kernel_alone, *given, config, shape) for name, config in configs.items()}
    for name in ("svg", "svg2+tail"):
        builders[f"{name}-{backend}-call"] = partial(whole_call, *given, configs[name], shape)
    (ours, missing), (others, missing_others) = tried(builders), masked_providers(q, k, v, density)
    return ours | others, missing | missing_others


def measured(providers: dict[str, Provider], q, k, v, shape: Shape, repeats: int, best_dense_ms: float | None = None):
    """A row a provider: times, and what follows from them; dense ones are compared with the best of themselves."""
    timed = interleaved({name: provider.run for name, provider in providers.items()}, q.device, repeats)
    best_dense_ms = best_dense_ms or best_ms(timed.values())
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
                out = provider.run().index_select(2, sampled).float()
                row["error"] = ((out - exact).norm() / exact.norm()).item()
        yield row


def best_ms(rows) -> float:
    """The shortest time of these rows, NaN where none has one."""
    return min((row["ms"] for row in rows if "ms" in row), default=float("nan"))


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """The rows of one shape: dense once, then all that is sparse at each density."""
    q, k, v = inputs(shape, arguments.device)
    dense, missing = dense_providers(q, k, v)
    yield from ({"provider": name, **row} for name, row in missing.items())
    rows = list(measured(dense, q, k, v, shape, arguments.repeats))
    yield from rows
    for density in arguments.densities:
        if out_of_time(arguments):
            yield {"provider": "all", "density": density, "missing": f"--seconds {arguments.seconds:g} were over"}
            continue
        works, missing = sparse_providers(q, k, v, shape, density)
        yield from ({"provider": name, "density": density, **row} for name, row in missing.items())
        yield from measured(works, q, k, v, shape, arguments.repeats, best_ms(rows))


if __name__ == "__main__":
    run("attention", COLUMNS, rows_of, parse_arguments(__doc__))
