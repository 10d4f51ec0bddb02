"""Kernels, one folder an op: contract in `__init__.py`, plain torch in `reference.py`, Triton in `triton_kernel.py`."""

from .backend import BACKENDS, backend_status, failures, is_out_of_memory
from .precision import PRECISIONS, nearest_precision

__all__ = ["BACKENDS", "PRECISIONS", "backend_status", "failures", "is_out_of_memory", "nearest_precision"]
