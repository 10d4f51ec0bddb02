"""The SVGVideoFidelity node: how near a sparse render is to the dense one."""

from __future__ import annotations

import math

from comfy_api.latest import io, ui
from torch import Tensor

from .inputs import schema, with_defaults
from .plots import SERIES, Canvas

WIDTH, HEIGHT = 1024, 720
FRAMES_AT_A_TIME = 8
SSIM_WINDOW = 11


class SVGVideoFidelity(io.ComfyNode):
    """Compares two renders frame by frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs; ids are forever, workflows carry them."""
        return schema(
            aliases=["psnr", "ssim", "compare videos", "video difference", "sparse videogen fidelity"],
            node_id="SVGVideoFidelity",
            display_name="Video Fidelity (PSNR, SSIM)",
            category="image/video",
            description="Compares a video with another of the same size, frame by frame: PSNR, SSIM, and where they differ. To "
            "see what sparsity changes, render the same seed with and without the node.",
            is_output_node=True,
            inputs=[
                io.Image.Input("reference", tooltip="Frames of the dense render."),
                io.Image.Input("images", tooltip="Frames of the sparse render, matching in frame count and size."),
                io.Float.Input(
                    "gain",
                    default=4.0,
                    min=1.0,
                    max=100.0,
                    step=0.5,
                    tooltip="The difference frames show the absolute difference multiplied by this (1-100).",
                ),
            ],
            outputs=[
                io.Float.Output(display_name="PSNR", tooltip="In dB, over all frames: 30 is close, 40 is hard to tell apart."),
                io.Float.Output(display_name="SSIM", tooltip="Mean over the frames, 1 at most."),
                io.Image.Output(display_name="plot", tooltip="PSNR and SSIM of each frame."),
                io.Image.Output(display_name="difference", tooltip="Absolute difference of each frame, multiplied by gain."),
            ],
        )

    @classmethod
    def execute(cls, reference, images, **values) -> io.NodeOutput:
        """PSNR [dB], SSIM, the plot and the difference frames.

        Raises:
            ValueError: one is no video, or they differ in frames, size or colour.
        """
        gain = with_defaults(cls, values)["gain"]
        by_frame = fidelity(reference, images)
        plot = draw_fidelity(by_frame)
        shown = ui.PreviewImage(plot, cls=cls).as_dict()
        figures = (by_frame["psnr_all"], sum(by_frame["ssim"]) / len(by_frame["ssim"]))
        text = f"PSNR {figures[0]:.2f} dB, SSIM {figures[1]:.4f}"
        # Three channels for grey too: other nodes take no image of one.
        difference = ((images[..., :3] - reference[..., :3]).abs() * gain).expand(-1, -1, -1, 3).clamp(0, 1)
        return io.NodeOutput(*figures, plot, difference, ui=shown | {"fidelity": (text,)})


def fidelity(reference: Tensor, images: Tensor) -> dict:
    """PSNR and SSIM by frame, and PSNR over all frames; infinite where frames are equal.

    Args:
        reference, images: [T, H, W, C] in [0, 1], as ComfyUI has images, T >= 1, C 1, 3 or 4; alpha is left out.

    Returns:
        {"psnr": [T], "ssim": [T], "psnr_all": float}

    Raises:
        ValueError: one is of another shape, they differ, or are below the 11 pixels of SSIM's window.
        RuntimeError: kornia is missing.
    """
    _check(reference, images)
    try:
        from kornia.metrics import ssim
    except ImportError as error:
        raise RuntimeError("SSIM needs kornia, which ComfyUI's requirements list: run 'pip install kornia'") from error

    errors, similarities = [], []
    for start in range(0, len(images), FRAMES_AT_A_TIME):
        a, b = (x[start : start + FRAMES_AT_A_TIME, ..., :3].float().movedim(-1, 1) for x in (reference, images))
        errors += (a - b).double().square().mean((1, 2, 3)).tolist()
        similarities += ssim(a, b, SSIM_WINDOW).mean((1, 2, 3)).tolist()
    return {"psnr": [_psnr(e) for e in errors], "ssim": similarities, "psnr_all": _psnr(sum(errors) / len(errors))}


def draw_fidelity(by_frame: dict) -> Tensor:
    """Both figures over frames, [1, H, W, 3] in [0, 1]."""
    canvas = Canvas(WIDTH, HEIGHT)
    equal = sum(map(math.isinf, by_frame["psnr"]))
    same = f" ({equal} frames are equal)" if equal else ""
    boxes = ((40, 30, WIDTH - 40, HEIGHT // 2), (40, HEIGHT // 2 + 20, WIDTH - 40, HEIGHT - 10))
    canvas.lines(
        *(boxes[0], by_frame["psnr"]),
        title=f"PSNR [dB]{same}",
        colour=SERIES[0],
        mean=f"{by_frame['psnr_all']:.2f} dB over all frames",
    )
    mean = sum(by_frame["ssim"]) / len(by_frame["ssim"])
    canvas.lines(boxes[1], by_frame["ssim"], title="SSIM", colour=SERIES[1], mean=f"{mean:.4f} over all frames")
    return canvas.tensor()


def _check(reference: Tensor, images: Tensor) -> None:
    for name, x in (("reference", reference), ("images", images)):
        if x.ndim != 4 or x.shape[3] not in (1, 3, 4):
            raise ValueError(f"{name} is {list(x.shape)}: it must be [frames, height, width, channels] with 1, 3 or 4 channels")
        if not len(x):
            raise ValueError(f"{name} has no frames: connect a video of at least one frame")
    if reference.shape[:3] != images.shape[:3]:
        sizes = [f"{len(x)} frames of {x.shape[2]} x {x.shape[1]}" for x in (reference, images)]
        raise ValueError(f"reference has {sizes[0]}, images has {sizes[1]}: they must match in frame count and size")
    channels = [min(x.shape[3], 3) for x in (reference, images)]
    if channels[0] != channels[1]:
        counts = f"reference has {channels[0]} and images {channels[1]} colour channels"
        raise ValueError(f"{counts}: a grey video cannot be compared with one in colour, so convert one of them")
    if min(reference.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"{reference.shape[2]} x {reference.shape[1]} pixels: SSIM needs at least {SSIM_WINDOW} on each side")


def _psnr(squared_error: float) -> float:
    return math.inf if squared_error == 0 else -10 * math.log10(squared_error)
