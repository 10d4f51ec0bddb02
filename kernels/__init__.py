"""Kernels, one folder an op: contract in `__init__.py`, plain torch in `reference.py`, Triton beside it."""

from .backend import BACKENDS, choose_backend

__all__ = ["BACKENDS", "choose_backend"]
