"""Run a ComfyUI's main.py with a torchvision and a torchaudio that import: `python host_launcher.py <ComfyUI> [arguments]`.

PyPI's torchvision is a CUDA build. Beside another build of torch its compiled operators cannot be loaded
and its import fails on two operators that it assumes to exist. Declaring their schemas is enough, since
ComfyUI uses torchvision's Python parts only. PyPI's torchaudio, another CUDA build, is not installed; an empty module
stands in for it, since ComfyUI imports it at its start and uses it for audio only. The server ends with the
process that started it, however that ends.
"""

import importlib.abc
import importlib.machinery
import os
import runpy
import sys
import threading
import time
from pathlib import Path

OP_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
declared = []  # torch.library.Library objects: the schemas live as long as these do


def declare_missing_ops() -> None:
    """Declare OP_SCHEMAS under `torchvision::` unless torchvision's compiled operators can be loaded."""
    import torch

    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    extension = next(Path(spec.origin).parent.glob("_C.*"), None) if spec else None
    try:
        torch.ops.load_library(extension)
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in OP_SCHEMAS:
            library.define(schema)
        declared.append(library)


class BeforeTorchvision:
    """Import hook that acts when torchvision is first imported: ComfyUI wants to import torch itself."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(cls)
            declare_missing_ops()
        return None


class EmptyTorchaudio(importlib.abc.Loader):
    """Import hook that gives empty modules for torchaudio and what is in it; the last one that is asked."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] == "torchaudio":
            return importlib.machinery.ModuleSpec(name, cls(), is_package=True)
        return None

    def exec_module(self, module):
        pass


def end_with_parent() -> None:
    """Watch the parent process; end this one when it has gone."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    host = Path(sys.argv[1])
    sys.path[0] = str(host)
    sys.argv = [str(host / "main.py"), *sys.argv[2:]]
    sys.meta_path.insert(0, BeforeTorchvision)
    sys.meta_path.append(EmptyTorchaudio)
    runpy.run_path(sys.argv[0], run_name="__main__")
