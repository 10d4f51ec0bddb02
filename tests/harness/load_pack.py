"""Imports the checkout as a package without putting its root on sys.path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
NAME = "sparse_videogen"


def load_pack() -> ModuleType:
    """Loads the root `__init__.py` by its path as `sparse_videogen`, as ComfyUI does under a name of its own.

    On sys.path the root would hide ComfyUI's `nodes.py` behind nodes/.
    """
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]
