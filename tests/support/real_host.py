"""A running ComfyUI with the pack and tiny checkpoints in it, as the host tests use it."""

from __future__ import annotations

from pathlib import Path

from comfy_host import ComfyServer, host_version, latent
from tiny_checkpoints import families_for, write_checkpoint
from tiny_prompts import tiny_prompt

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {
    "SVGAttention": {
        "sparsity": 0.7,
        "start_percent": 0.2,
        "end_percent": 1.0,
        "dense_blocks": "0",
        "min_tokens": 0,
        "sampled_rows": 64,
        "backend": "auto",
        "verbose": False,
    },
    "SVG2Attention": {
        "top_p": 0.6,
        "start_percent": 0.2,
        "end_percent": 1.0,
        "q_clusters": 8,
        "k_clusters": 24,
        "min_keep": 0.1,
        "tail": "second_order",
        "kmeans_init_iters": 6,
        "kmeans_step_iters": 2,
        "recluster_every": 1,
        "dense_blocks": "0",
        "min_tokens": 0,
        "backend": "auto",
        "verbose": False,
    },
}
# 5 latent frames of 8 x 12 tokens; a model with 16 px latents needs twice the size for as many.
SIZE = {"width": 192, "height": 128, "frames": 17, "steps": 4, "cfg": 5.0}
LARGE_PIXELS = {"wan22_5b": 2, "hunyuan15": 1}


class Host:
    """A running ComfyUI with the pack and the tiny checkpoints in it."""

    def __init__(self, path: Path, base_dir: Path):
        self.path, self.version = path, host_version(path)
        self.families = families_for(self.version)
        for family in self.families:
            write_checkpoint(family, base_dir / "models" / "diffusion_models")
        self.server = ComfyServer(path, base_dir, [ROOT, ROOT / "demo" / "helper_nodes"])

    def prompt(self, family: str, method: str | None = None, *, prompt_options: dict | None = None, **inputs) -> dict:
        """An API prompt; `inputs` change the node's, `prompt_options` the rest's."""

        def insert(prompt: dict, link: list) -> list:
            node = f"svg_{link[0]}"
            prompt[node] = {"class_type": method, "inputs": {"model": link, **DEFAULTS[method], **inputs}}
            return [node, 0]

        size = dict(SIZE)
        if family in LARGE_PIXELS:
            size |= {"width": 384, "height": 256} if family == "wan22_5b" else {"width": 192, "height": 128}
        low = family.replace("_high", "_low")
        pair = {"unet_low": f"{low}.safetensors"} if low != family else {}
        options = {"unet": f"{family}.safetensors", **pair, **size, **(prompt_options or {})}
        return tiny_prompt(family, model_patch=insert if method else None, **options)

    def render(self, family: str, method: str | None = None, **kwargs):
        """(latent, result) of `prompt(...)`."""
        result = self.server.queue(self.prompt(family, method, **kwargs))
        return latent(result), result


def reports(result) -> list[dict]:
    """The `sparse_videogen.run` events of a prompt, one a sampler run."""
    return [data for kind, data in result.events if kind == "sparse_videogen.run"]
