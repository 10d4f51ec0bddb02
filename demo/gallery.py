"""Makes the pictures in docs/images from the tiny model: four prompts, dense beside SVG2, and what each head reads.

python demo/gallery.py
"""

from __future__ import annotations

from pathlib import Path

from load_pack import load_pack

load_pack()

import diffusers_host  # noqa: E402
import pattern_picture  # noqa: E402
import pictures  # noqa: E402
from render import METHODS, Scene  # noqa: E402
from video_quality import psnr  # noqa: E402

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
PROMPTS = (0, 1, 5, 7)


def main() -> None:
    """Writes them, and prints what each shows."""
    model = diffusers_host.load_model()
    for i, prompt in enumerate(PROMPTS):
        scene = Scene(prompt)
        dense, sparse = (diffusers_host.render(model, scene, method) for method in (METHODS[0], METHODS[-1]))
        file = IMAGES / f"tiny_wan_{i}.webp"
        pictures.animation({"dense": dense.video, f"{sparse.method}, density {sparse.density:.2f}": sparse.video}, file)
        kilobytes = file.stat().st_size / 1e3
        print(f"{file.name}: prompt {prompt}, {kilobytes:.0f} kB, {psnr(sparse.video, dense.video):.1f} dB", flush=True)
        if i == 0:
            pattern_picture.draw(dense.video, prompt, IMAGES / "patterns.png")


if __name__ == "__main__":
    main()
