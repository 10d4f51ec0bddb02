"""Named settings: a preset other than `CUSTOM` stands for its numbers, whatever the widgets show.

The page shows a preset's numbers in the widgets; Python decides, so that a workflow whose page never ran (sent by
the API, or with the preset promoted onto a subgraph) does what its preset says.

Sources: the settings of SVG (arXiv 2502.01776, section 5.1) and SVG2 (arXiv 2505.18875, section 5.1) and of the
authors' scripts. The papers keep 2.5-3 % of the layers dense: block 0 of Wan's 30 or 40 and of CogVideoX's 42, blocks
0-1 of HunyuanVideo's 60. Where a method was not published for a model, its numbers follow the nearest that was.
"""

from __future__ import annotations

CUSTOM = "Custom"

# k-means from nothing costs about a hundredth of dense attention an iteration: too much where few steps share it.
FEW_STEPS_INIT_ITERS = 12


def _svg(sparsity: float, start_percent: float, dense_blocks: str = "0") -> dict:
    return {"sparsity": sparsity, "start_percent": start_percent, "dense_blocks": dense_blocks}


def _svg2(start_percent: float, q_clusters: int, k_clusters: int, *, top_p: float = 0.90, dense_blocks: str = "0", init=50):
    return {
        "top_p": top_p,
        "start_percent": start_percent,
        "q_clusters": q_clusters,
        "k_clusters": k_clusters,
        "min_keep": 0.10,
        "kmeans_init_iters": init,
        "dense_blocks": dense_blocks,
    }


# name -> widget -> value; widgets that are not named stay as they are.
SVG_PRESETS = {
    "Wan 2.1/2.2 T2V 720p (paper)": _svg(0.70, 0.20),
    "Wan I2V 720p": _svg(0.70, 0.35),
    "Wan 480p": _svg(0.60, 0.20),
    "HunyuanVideo 720p": _svg(0.75, 0.10, dense_blocks="0-1"),
    "CogVideoX": _svg(0.75, 0.20),
    "Turbo": _svg(0.80, 0.30),
    "4-step LoRA": _svg(0.60, 0.20),
}
SVG2_PRESETS = {
    "Wan 2.1/2.2 T2V 720p (paper)": _svg2(0.20, 300, 1000),
    "Wan I2V 720p": _svg2(0.35, 300, 1000),
    "Wan 480p": _svg2(0.20, 200, 1000),
    "HunyuanVideo 720p": _svg2(0.10, 400, 1000, dense_blocks="0-1"),
    "CogVideoX": _svg2(0.20, 300, 1000),
    "Turbo": _svg2(0.30, 100, 500, top_p=0.70),
    "4-step LoRA": _svg2(0.20, 200, 1000, init=FEW_STEPS_INIT_ITERS),
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
