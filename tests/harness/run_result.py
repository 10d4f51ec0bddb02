"""What comes back from a prompt: its result, its latents, or why there is none."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file


@dataclass(frozen=True)
class RunResult:
    """What one prompt produced.

    Attributes:
        outputs: node id -> that node's UI output, as in /history, also where the host's history forgets it
            (0.3.x with --cache-none keeps that of nodes at the end of the graph only).
        seconds: from execution start to success, by the server's clock.
        events: (type, data) of the websocket messages sent while it ran, custom ones included.
        log: what the server wrote since the prompt was submitted.
        base_dir: the server's base directory.
    """

    outputs: dict
    seconds: float
    events: list
    log: str
    base_dir: Path


class PromptError(Exception):
    """The server refused a prompt, or a node failed, or the run was interrupted.

    Attributes:
        details: the server's own account (node_errors, traceback, ...).
        result: the RunResult so far, or None for a refused prompt.
    """

    def __init__(self, message: str, details: dict, result: RunResult | None = None):
        super().__init__(message)
        self.details = details
        self.result = result


def latent(source: RunResult | Path, node: str = "save"):
    """Read a latent that core's SaveLatent wrote.

    Args:
        source: a run's result, or a .latent file.
        node: id of the SaveLatent node; for a RunResult.
    Returns:
        Tensor [B, C, T, H, W], or [B, C, H, W] for an image model.
    """
    if isinstance(source, RunResult):
        entry = source.outputs[node]["latents"][0]
        source = source.base_dir / "output" / entry["subfolder"] / entry["filename"]
    return load_file(source)["latent_tensor"]


def describe_refusal(details: dict) -> str:
    """One line for the error and one for each reason that a node gives."""
    lines = [f"{details['error']['message']} {details['error'].get('details', '')}".strip()]
    for node_id, node in details.get("node_errors", {}).items():
        where = f"node {node_id} ({node['class_type']})"
        lines += [f"{where}: {reason['message']}: {reason['details']}" for reason in node["errors"]]
    return "\n".join(lines)


def describe_failure(kind: str, details: dict) -> str:
    """What the server tells of an execution_error or execution_interrupted message."""
    where = f"node {details.get('node_id')} ({details.get('node_type')})"
    if kind == "execution_interrupted":
        return f"interrupted at {where}"
    trace = "".join(details.get("traceback", []))
    return f"{where}: {details['exception_type']}: {details['exception_message']}\n{trace}"
