"""Nodes for the demo and the host tests."""

from . import inputs, patches, plans
from .registry import NODE_CLASS_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "inputs", "patches", "plans"]
