"""Makes the pictures in docs/images, and the example workflows' thumbnails, from runs of the tiny model.

python demo/gallery.py videos   # four prompts, dense beside SVG2, and what each head reads, in diffusers
python demo/gallery.py page     # the node with its panel, its report and the workflows, in the last ComfyUI found

The workflow for raylight opens where raylight is found, as for the tests.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import comfy_render
import diffusers_host
import pattern_picture
import pictures
import tiny_wan
from comfy_page import ComfyPage, newest_page
from PIL import Image
from processes import ENGINES
from ranks import find_raylight
from render import METHODS, ROOT, Scene
from video_quality import psnr
from workflow_render import WORKFLOWS

IMAGES = ROOT / "docs" / "images"
PROMPTS = (0, 1, 5, 7)
NODE = "sparse"
WIDTH, HEIGHT = 400, 330
REPORT_WIDTH, THUMBNAIL_WIDTH = 960, 640
RAYLIGHT_NODES = ROOT / "tests" / "harness" / "raylight_nodes"
IN_PAGE = {"MarkdownNote", "Note"}  # of which a server knows nothing
NO_LINKS, LINKS = -1, 2
SMALLER = """() => {
    const { ds, canvas } = app.canvas;
    const { width, height } = canvas.getBoundingClientRect();
    const before = ds.scale;
    ds.scale *= 0.85;
    ds.offset[0] += (width / 2) * (1 / ds.scale - 1 / before);
    ds.offset[1] += (height / 2) * (1 / ds.scale - 1 / before);
    app.canvas.setDirty(true, true);
}"""
# The rectangle of all groups in the window.
GROUPS = """() => {
    const boxes = app.graph.groups.map(({ pos, size }) => [...pos, pos[0] + size[0], pos[1] + size[1]]);
    const edge = (i, pick) => pick(...boxes.map((box) => box[i]));
    const [x, y] = tests.inWindow(edge(0, Math.min), edge(1, Math.min));
    const [right, bottom] = tests.inWindow(edge(2, Math.max), edge(3, Math.max));
    return { x, y, width: right - x, height: bottom - y };
}"""


def draw_videos() -> None:
    """Videos of some prompts, and what the heads read in the first."""
    model = tiny_wan.load()
    for i, prompt in enumerate(PROMPTS):
        scene = Scene(prompt)
        dense, sparse = (diffusers_host.render(model, scene, method) for method in (METHODS[0], METHODS[-1]))
        file = IMAGES / f"tiny_wan_{i}.webp"
        pictures.animation({"dense": dense.video, f"{sparse.method}, density {sparse.density:.2f}": sparse.video}, file)
        kilobytes = file.stat().st_size / 1e3
        print(f"{file.name}: prompt {prompt}, {kilobytes:.0f} kB, {psnr(sparse.video, dense.video):.1f} dB", flush=True)
        if i == 0:
            pattern_picture.draw(dense.video, prompt, IMAGES / "patterns.png")


def draw_page() -> None:
    """What the page shows of a run and of the workflows."""
    with newest_page([RAYLIGHT_NODES] if ENGINES.is_dir() and find_raylight() else []) as comfy:
        comfy_render.install_checkpoint(comfy.host.server.base_dir)
        draw_run(comfy)
        draw_workflows(comfy)


def draw_run(comfy: ComfyPage) -> None:
    """The node with its panel after a run, and what the report node drew of it."""
    comfy.set(**{"Comfy.LinkRenderMode": NO_LINKS})
    comfy.open()
    comfy.clear()
    prompt = comfy_render.prompt_of(Scene(), METHODS[-1])
    prompt["report"] = {"class_type": "SVGReport", "inputs": {"model": [NODE, 0], "samples": ["sampler", 0]}}
    ids = comfy("build", prompt)
    comfy.evaluate("id => { const node = tests.node(id); node.title = node.constructor.title; }", ids[NODE])
    result = comfy("run")
    if result["kind"] != "execution_success":
        raise RuntimeError(result["detail"])
    comfy.evaluate("([id, size]) => tests.node(id).setSize(size)", [ids[NODE], [WIDTH, HEIGHT]])
    save(Image.open(comfy.picture("panel", ids[NODE])), IMAGES / "panel.png")
    (drawn,) = result["outputs"][ids["report"]]["images"]
    report = Image.open(comfy.host.server.base_dir / "temp" / drawn["subfolder"] / drawn["filename"])
    save(report, IMAGES / "report.png", REPORT_WIDTH)


def draw_workflows(comfy: ComfyPage) -> None:
    """Each example workflow as it opens where its models are."""
    workflows = {file: json.loads(file.read_text()) for file in sorted(WORKFLOWS.glob("*.json"))}
    for node in (node for workflow in workflows.values() for node in workflow["nodes"]):
        for model in node["properties"].get("models", ()):
            named = comfy.host.server.base_dir / "models" / model["directory"] / model["name"]
            named.parent.mkdir(parents=True, exist_ok=True)
            named.touch()  # the page looks for names only
    comfy.set(**{"Comfy.LinkRenderMode": LINKS})
    comfy.open()
    known = comfy.host.server.object_info()
    for file, workflow in workflows.items():
        unknown = {node["type"] for node in workflow["nodes"]} - known.keys() - IN_PAGE
        if unknown:
            print(f"{file.name} is left out, for want of {', '.join(sorted(unknown))}")
            continue
        comfy.load(workflow)
        comfy.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        comfy.page.wait_for_timeout(1500)  # the host's own transitions have no event
        comfy.evaluate(SMALLER)  # clear of the menus
        comfy.page.mouse.move(5, 5)
        comfy.page.wait_for_timeout(500)
        shot = comfy.out / "workflow.png"
        comfy.page.screenshot(path=shot, clip=comfy.evaluate(GROUPS))
        save(Image.open(shot), file.with_suffix(".jpg"), THUMBNAIL_WIDTH)


def save(picture: Image.Image, file: Path, width: int | None = None) -> None:
    """Writes the picture, at this width, and says so."""
    if width:
        picture = picture.resize((width, round(width * picture.height / picture.width)), Image.Resampling.LANCZOS)
    picture.convert("RGB").save(file, optimize=True, quality=85)
    print(f"{file.relative_to(ROOT)}: {picture.width} x {picture.height}, {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("videos", "page"))
    {"videos": draw_videos, "page": draw_page}[parser.parse_args().what]()
