"""How long does one k-means iteration over a layer's queries or keys take, beside flash_kmeans?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from calls import backend_of
from device import interleaved, tried
from measure import inputs, parse_arguments, run
from shapes import Shape
from sparse_videogen.svg_core.clusters import initial_centroids, kmeans

COLUMNS = ("shape", "provider", "clusters", "ms", "ms_p20", "ms_p80", "tflops", "peak_bytes")


def flash_kmeans(x, start) -> Callable:
    """One iteration of the authors' kernels."""
    from flash_kmeans import batch_kmeans_Euclid

    flat, centroids = x.flatten(0, 1).contiguous(), start.flatten(0, 1).contiguous()
    return partial(batch_kmeans_Euclid, flat, n_clusters=centroids.shape[1], max_iters=1, init_centroids=centroids)


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """A row a side and provider."""
    q, k, _ = inputs(shape, arguments.device)
    for x, clusters in ((q, shape.q_clusters), (k, shape.k_clusters)):
        start = initial_centroids(x, clusters)
        ours = {f"kmeans-{backend}": partial(kmeans, x, start, 1, backend) for backend in {"torch": 0, backend_of(x): 0}}
        others, missing = tried({"flash_kmeans": partial(flash_kmeans, x, start)})
        flops = 2 * shape.heads * shape.tokens * clusters * shape.head_dim
        for provider, row in {**missing, **interleaved(ours | others, arguments.device, arguments.repeats)}.items():
            rate = {"tflops": flops / row["ms"] / 1e9} if "ms" in row else {}
            yield {"provider": provider, "clusters": clusters, **row, **rate}


if __name__ == "__main__":
    run("kmeans", COLUMNS, rows_of, parse_arguments(__doc__))
