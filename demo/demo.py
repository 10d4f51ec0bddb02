"""The tiny Wan model's video, dense and by each method: a table and pictures; in a ComfyUI if one is found."""

from __future__ import annotations

import argparse
from pathlib import Path

import comfy_render
import diffusers_host
import pattern_picture
import pictures
from comfy_host import find_hosts
from moving_shapes import PROMPTS
from render import Render, Scene
from video_quality import psnr, ssim

OUT = Path(__file__).with_name("out")


def main() -> None:
    """Prints the table and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", type=int, default=0, choices=range(len(PROMPTS)), help="which of the model's prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--host",
        choices=("auto", "comfyui", "diffusers"),
        default="auto",
        help="auto: a ComfyUI if one is found, else diffusers",
    )
    arguments = parser.parse_args()
    scene = Scene(arguments.prompt, arguments.seed, steps=arguments.steps)
    renders = render_on(arguments.host, scene)
    print(f'"{PROMPTS[scene.prompt].text}", seed {scene.seed}, {scene.frames} frames of {scene.pixels} x {scene.pixels} pixels')
    print_table(renders)
    for file in write_pictures(renders, scene, OUT):
        print(file)


def render_on(host: str, scene: Scene) -> list[Render]:
    """A render a method, in the host asked for.

    Raises:
        RuntimeError: a ComfyUI is asked for and none is there.
    """
    found = find_hosts() if host != "diffusers" else []
    if host == "comfyui" and not found:
        raise RuntimeError("no ComfyUI found: set COMFYUI_PATH=/path/to/ComfyUI, or choose --host diffusers")
    if found:
        return comfy_render.render_all(found[0], scene)
    print("diffusers" + (" (no ComfyUI found; COMFYUI_PATH=/path/to/ComfyUI names one)" if host == "auto" else ""))
    return diffusers_host.render_all(scene)


def print_table(renders: list[Render]) -> None:
    """What each method computed, how near to dense it came, and what it took."""
    columns = ("dense/sparse", "density", "work", "computed", "error", "PSNR", "SSIM", "attention s", "total s")
    print(f"\n{'method':<20}" + "".join(f"{column:>14}" for column in columns))
    for render in renders:
        near = ("", "")
        if render is not renders[0]:
            near = (f"{psnr(render.video, renders[0].video):.1f} dB", f"{ssim(render.video, renders[0].video):.4f}")
        steps = f"{render.steps - render.sparse_steps}/{render.sparse_steps}"
        shares = (f"{share:.3f}" for share in (render.density, render.work, render.computed))
        cells = (steps, *shares, f"{render.error:.1%}", *near)
        times = (f"{render.attention_s:.1f}", f"{render.total_s:.1f}")
        print(f"{render.method:<20}" + "".join(f"{cell:>14}" for cell in cells + times))
    print(
        "\nDense/sparse are steps; density, computed and error are those of the sparse ones. Work is attention's share of the\n"
        "dense run's, dense steps counted. PSNR and SSIM are against dense.\n"
        "On so short a video planning costs about what it saves: read quality here, and speed in benchmarks/.\n"
    )


def write_pictures(renders: list[Render], scene: Scene, folder: Path) -> list[Path]:
    """The videos side by side, moving and still, and what each head chose."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = {render.method: render.video for render in renders}
    files = [folder / "side_by_side.webp", folder / "side_by_side.png", folder / "heads.png"]
    pictures.animation(videos, files[0], reference="dense")
    pictures.still(videos, files[1], reference="dense")
    pattern_picture.draw(renders[0].video, scene.prompt, files[2])
    return files


if __name__ == "__main__":
    main()
