"""A running ComfyUI with the pack and tiny checkpoints in it, as the host tests use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comfy_host import ComfyServer, host_version, latent
from load_pack import ROOT
from tiny_checkpoints import families_for, parts, write_checkpoint
from tiny_prompts import node, tiny_prompt

# Inputs for models so small, where they are not the nodes' own defaults; in the first of four or six steps both are dense.
SMALL = {
    "SVGAttention": {"min_tokens": 0},
    "SVG2Attention": {
        **{"min_tokens": 0, "density": 0.4, "start_percent": 0.2, "q_clusters": 8, "k_clusters": 24, "kmeans_init_iters": 6}
    },
}
METHODS = {"SVGAttention": "SVG", "SVG2Attention": "SVG2"}  # node -> what it calls itself
RAY = {f"{node}Ray": node for node in METHODS}  # the nodes for raylight -> their sisters
HELPERS = Path(__file__).with_name("helper_nodes")
# Settings that leave nothing out.
EVERYTHING = {"SVGAttention": {"sparsity": 0.0}, "SVG2Attention": {"choose_by": "top_p", "top_p": 1.0}}
Patches = Sequence[tuple[str, dict]]
FIRST_VERSION = "0.3.60"  # with the attention override


class Host:
    """A running ComfyUI with the pack and the tiny checkpoints in it.

    Args:
        families: whose checkpoints are written; None: all that this ComfyUI loads.
        cached: as `ComfyServer`.
    """

    def __init__(self, path: Path, base_dir: Path, families: Sequence[str] | None = None, cached: bool = False):
        self.path, self.version = path, host_version(path)
        self.families = families_for(self.version) if families is None else families
        for family in self.families:
            write_checkpoint(family, base_dir / "models" / "diffusion_models")
        self.server = ComfyServer(path, base_dir, [ROOT, HELPERS], cached=cached)

    def prompt(
        self,
        family: str,
        method: str | None = None,
        *,
        prompt_options: dict | None = None,
        before: Patches = (),
        after: Patches = (),
        **inputs,
    ) -> dict:
        """An API prompt.

        Args:
            inputs: change our node's.
            prompt_options: change the rest's.
            before, after: (class_type, inputs) of nodes that patch the model on either side of ours.
        """
        ours = [(method, {**SMALL[method], **inputs})] if method else []

        def insert(prompt: dict, link: list) -> list:
            loader = link[0]
            for i, (class_type, values) in enumerate([*before, *ours, *after]):
                name = f"svg_{loader}" if ours and i == len(before) else f"patch_{i}_{loader}"
                prompt[name] = node(class_type, model=link, **values)
                link = [name, 0]
            return link

        return tiny_prompt(family, model_patch=insert, **(prompt_options or {}))

    def render(self, family: str, method: str | None = None, **kwargs):
        """(latent, result) of `prompt(...)`."""
        result = self.server.queue(self.prompt(family, method, **kwargs))
        return latent(result), result


def our_nodes(host: Host) -> dict[str, dict]:
    """The pack's entries of /object_info."""
    folder = host.server.packs[0].name
    return {name: info for name, info in host.server.object_info().items() if info["python_module"] == f"custom_nodes.{folder}"}


def is_old(version: str) -> bool:
    """Whether a ComfyUI of this version has no attention override: the nodes then change nothing."""
    return parts(version) < parts(FIRST_VERSION)


def reports(result) -> list[dict]:
    """The `sparse_videogen.run` events of a prompt, one a sampler run."""
    return [data for kind, data in result.events if kind == "sparse_videogen.run"]
