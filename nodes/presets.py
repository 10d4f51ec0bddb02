"""Named settings: a preset other than `CUSTOM` stands for its numbers, whatever the widgets show.

The page shows a preset's numbers in the widgets; Python decides, so that a workflow whose page never ran (sent by
the API, or with the preset promoted onto a subgraph) does what its preset says.

Sources: the settings of SVG (arXiv 2502.01776, section 5.1) for its presets, of SVG2 (arXiv 2505.18875, section 5.1) for those
of its presets that are marked as the paper's, and of the authors' scripts. The papers keep 2.5-3 % of the layers dense: block
0 of Wan's 30 or 40 and of CogVideoX's 42, blocks 0-1 of HunyuanVideo's 60. Where SVG was not published for a model, its
numbers follow the nearest that was. The other presets of SVG2 are this pack's own, and so are both methods' for few steps: they
follow what benchmarks/quality.py measures on the tiny Wan. Those of MiniMax-H3 and LTX-2, never tried with the real models, are
those of 20 steps, of 4 and of 8. LTX-2 has fewer tokens, hence fewer clusters, and its distilled schedule takes two steps in
the first tenth.
"""

from __future__ import annotations

CUSTOM = "Custom"


def _svg(sparsity: float, start_percent: float, dense_blocks: str = "0") -> dict:
    return {"sparsity": sparsity, "start_percent": start_percent, "dense_blocks": dense_blocks}


def _clusters(q: int = 300, k: int = 1000, init: int = 10, step: int = 1) -> dict:
    return {"q_clusters": q, "k_clusters": k, "kmeans_init_iters": init, "kmeans_step_iters": step}


def _by_density(density: float, density_start: float = 1.5, **clusters: int) -> dict:
    start = {"density_start": density_start, "start_percent": 0.0, "dense_blocks": "0"}
    return {"choose_by": "density", "density": density, **start, **_clusters(**clusters)}


def _by_error(error: float) -> dict:
    start = {"density": 0.25, "start_percent": 0.0, "dense_blocks": "0"}
    return {"choose_by": "target_error", "target_error": error, **start, **_clusters()}


def _by_top_p(start_percent: float, q_clusters: int, k_clusters: int, *, top_p: float = 0.90, dense_blocks: str = "0") -> dict:
    start = {"min_keep": 0.10, "start_percent": start_percent, "dense_blocks": dense_blocks}
    return {"choose_by": "top_p", "top_p": top_p, **start, **_clusters(q_clusters, k_clusters, init=50, step=2)}


# name -> widget -> value; widgets that are not named stay as they are.
SVG_PRESETS = {
    "Wan 2.1/2.2 T2V 720p (paper)": _svg(0.70, 0.20),
    "Wan I2V 720p": _svg(0.70, 0.35),
    "Wan 480p": _svg(0.60, 0.20),
    "HunyuanVideo 720p": _svg(0.75, 0.10, dense_blocks="0-1"),
    "CogVideoX": _svg(0.75, 0.20),
    "Turbo": _svg(0.80, 0.30),
    "4-step LoRA": _svg(0.60, 0.20),
    "8-step LoRA": _svg(0.60, 0.20),
    "MiniMax-H3": _svg(0.70, 0.20),
    "MiniMax-H3, 4 steps": _svg(0.60, 0.20),
    "LTX-2": _svg(0.60, 0.10),
}
SVG2_PRESETS = {
    "Balanced": _by_density(0.25),
    "Near dense": _by_density(0.40),
    "Fast": _by_density(0.15),
    "Even error": _by_error(0.05),
    "4-step LoRA": _by_density(0.30, density_start=1.25),
    "8-step LoRA": _by_density(0.30),
    "MiniMax-H3": _by_density(0.25),
    "MiniMax-H3, 4 steps": _by_density(0.30, density_start=1.25),
    "LTX-2": _by_density(0.30, q=120, k=400),
    "Wan 2.1/2.2 T2V 720p (paper)": _by_top_p(0.20, 300, 1000),
    "Wan I2V 720p (paper)": _by_top_p(0.35, 300, 1000),
    "Wan 480p (paper)": _by_top_p(0.20, 200, 1000),
    "HunyuanVideo 720p (paper)": _by_top_p(0.10, 400, 1000, dense_blocks="0-1"),
    "Turbo (paper)": _by_top_p(0.30, 100, 500, top_p=0.70),
}
# choose_by -> widgets that then count for nothing; a preset sets each of its kind's others that any preset sets.
UNUSED = {
    "density": ["target_error", "top_p", "min_keep"],
    "target_error": ["top_p", "density_start", "min_keep"],
    "top_p": ["density", "target_error", "density_start", "score_every"],
}


def resolve(presets: dict[str, dict], preset: str, values: dict) -> dict:
    """The widgets' values with those of the preset in their place.

    Raises:
        ValueError: no preset of that name.
    """
    if preset == CUSTOM:
        return values
    if preset not in presets:
        raise ValueError(f"preset={preset!r}: must be one of {', '.join([CUSTOM, *presets])}")
    return values | presets[preset]
