"""Kernels, one folder an op: contract in `__init__.py`, plain torch in `reference.py`, Triton in `triton_kernel.py`."""

from .backend import BACKENDS, choose_backend, failures, is_out_of_memory, triton_obstacle

__all__ = ["BACKENDS", "choose_backend", "failures", "is_out_of_memory", "triton_obstacle"]
