"""What can this GPU do at most: multiply, copy, launch? What a kernel's rate is to be compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import Rows, device_facts, interleaved, on_gpu, parse_arguments, reason

COLUMNS = ("provider", "ms", "ms_p20", "ms_p80", "tflops", "gbps", "launch_us", "sms", "l2_bytes", "sm_mhz")
LAUNCHES = 1000


def product(device: str, size: int) -> tuple[Callable, Callable]:
    """A square product of bf16, and its rate."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return lambda: a @ b, lambda ms: {"tflops": 2 * size**3 / ms / 1e9}


def copy(device: str, size_bytes: int) -> tuple[Callable, Callable]:
    """A copy on the device, and its rate: bytes read and written."""
    source = torch.empty(size_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source), lambda ms: {"gbps": 2 * size_bytes / ms / 1e6}


def launches(launch: Callable) -> tuple[Callable, Callable]:
    """Many launches of what takes no time itself, and the time of one."""

    def run():
        for _ in range(LAUNCHES):
            launch()

    return run, lambda ms: {"launch_us": 1e3 * ms / LAUNCHES}


def torch_launch(device: str) -> Callable:
    """One by torch."""
    return torch.zeros(1, device=device).zero_


def triton_launch(device: str) -> Callable:
    """One by Triton's launcher."""
    import triton

    kernel, x = triton.jit(_empty_kernel), torch.zeros(1, device=device)
    return lambda: kernel[(1,)](x)


def _empty_kernel(x_ptr):
    return


def main() -> None:
    """A row a ceiling, and what the device says of itself after them, still warm."""
    arguments = parse_arguments(__doc__)
    device, large = arguments.device, torch.device(arguments.device).type == "cuda"
    table = Rows(COLUMNS, arguments.json, device)
    builders = {
        "product-bf16": lambda: product(device, 8192 if large else 256),
        "copy": lambda: copy(device, 4 << 30 if large else 4 << 20),
        "launch-torch": lambda: launches(torch_launch(device)),
        "launch-triton": lambda: launches(triton_launch(device)),
    }
    for provider, build in builders.items():
        row = {"op": "ceilings", "provider": provider}
        try:
            run, rate = build()
            row |= interleaved({"": run}, device, arguments.repeats)[""]
            row |= rate(row["ms"]) if "ms" in row else {}
        except Exception as error:  # one that cannot run is a line of the table
            row["missing"] = reason(error)
        table.add(row)
    if on_gpu(device):
        table.add({"op": "ceilings", "provider": "device", **device_facts(device)})


if __name__ == "__main__":
    main()
