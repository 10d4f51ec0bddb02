"""How long does one k-means iteration over a layer's queries or keys take, beside flash_kmeans?"""

from __future__ import annotations

import importlib.util
from functools import partial

from measure import Rows, each_shape, interleaved, parse_arguments
from sparse_videogen.kernels import choose_backend
from sparse_videogen.svg_core.kmeans import initial_centroids, kmeans

COLUMNS = ("shape", "provider", "clusters", "ms", "ms_p20", "ms_p80", "tflops", "peak_bytes")


def providers(x, start) -> tuple[dict, dict[str, str]]:
    """One iteration by provider, and what is missing: name -> reason."""
    made = {"kmeans-torch": partial(kmeans, x, start, 1, "torch")}
    if choose_backend("auto", x.device) == "triton":
        made["kmeans-triton"] = partial(kmeans, x, start, 1, "triton")
    if importlib.util.find_spec("flash_kmeans") is None:
        return made, {"flash_kmeans": "not installed"}
    from flash_kmeans import batch_kmeans_Euclid

    flat, centroids = x.flatten(0, 1).contiguous(), start.flatten(0, 1).contiguous()
    made["flash_kmeans"] = partial(
        batch_kmeans_Euclid, flat, n_clusters=centroids.shape[1], max_iters=1, init_centroids=centroids
    )
    return made, {}


def main() -> None:
    """A row a shape, side and provider."""
    arguments = parse_arguments(__doc__)
    table = Rows(COLUMNS, arguments.json, arguments.device)
    for name, shape, q, k, _ in each_shape(arguments):
        for x, clusters in ((q, shape.q_clusters), (k, shape.k_clusters)):
            functions, missing = providers(x, initial_centroids(x, clusters))
            common = {"op": "kmeans", "shape": name, "tokens": shape.tokens, "clusters": clusters}
            for provider, reason in missing.items():
                table.add({**common, "provider": provider, "missing": reason})
            flops = 2 * shape.heads * shape.tokens * clusters * shape.head_dim
            for provider, times in interleaved(functions, arguments.device, arguments.repeats).items():
                rate = {"tflops": flops / times["ms"] / 1e9} if "ms" in times else {}
                table.add({**common, "provider": provider, **times, **rate})


if __name__ == "__main__":
    main()
