"""What can this GPU do at most: multiply, copy, launch? What a kernel's rate is to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from device import attempt, gpu, gpu_query, interleaved, on_gpu
from measure import Rows, parse_arguments

COLUMNS = ("provider", "ms", "ms_p20", "ms_p80", "tflops", "gbps", "launch_us", "sms", "l2_bytes", "sm_mhz")
# What nvidia-smi reads off right now, by our name.
READINGS = {"sm_mhz": "clocks.sm", "most_sm_mhz": "clocks.max.sm", "memory_mhz": "clocks.mem"}
READINGS |= {"watts": "power.draw", "celsius": "temperature.gpu"}


def product(device: str, size: int) -> Callable:
    """A square product of bf16."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return lambda: a @ b


def copy(device: str, size_bytes: int) -> Callable:
    """A copy on the device."""
    source = torch.empty(size_bytes, dtype=torch.uint8, device=device).random_()
    return partial(torch.empty_like(source).copy_, source)


def launches(device: str, count: int, by_triton: bool) -> Callable:
    """Many launches of what takes no time itself, by torch or by Triton's launcher."""
    x = torch.zeros(1, device=device)
    launch = x.zero_
    if by_triton:
        import triton

        launch = partial(triton.jit(_empty_kernel)[(1,)], x)

    def run():
        for _ in range(count):
            launch()

    return run


def _empty_kernel(x_ptr):
    return


def timed(build: Callable, rate: Callable[[float], dict], arguments) -> dict:
    """Times of what is built, and its rate, which follows from the milliseconds."""
    times = interleaved({"": build()}, arguments.device, arguments.repeats)[""]
    return times | (rate(times["ms"]) if "ms" in times else {})


def device_facts(device: str) -> dict:
    """Multiprocessors, L2 and memory in bytes, and the readings."""
    properties = gpu.get_device_properties(device)
    facts = {"sms": properties.multi_processor_count, "l2_bytes": properties.L2_cache_size}
    facts["memory_bytes"] = properties.total_memory
    return facts | dict(zip(READINGS, gpu_query(*READINGS.values()), strict=True))


def main() -> None:
    """A row a ceiling, and what the device says of itself after them, still warm."""
    arguments = parse_arguments(__doc__)
    device, large = arguments.device, torch.device(arguments.device).type == "cuda"
    size, size_bytes, count = (8192, 4 << 30, 1000) if large else (256, 4 << 20, 50)
    table = Rows(COLUMNS, arguments.json, device)
    ceilings = {
        "product-bf16": (partial(product, device, size), lambda ms: {"tflops": 2 * size**3 / ms / 1e9}),
        "copy": (partial(copy, device, size_bytes), lambda ms: {"gbps": 2 * size_bytes / ms / 1e6}),  # read and written
    }
    for name in ("torch", "triton"):
        build = partial(launches, device, count, by_triton=name == "triton")
        ceilings[f"launch-{name}"] = build, lambda ms: {"launch_us": 1e3 * ms / count}
    for provider, ceiling in ceilings.items():
        table.add({"op": "ceilings", "provider": provider, **attempt(timed, *ceiling, arguments)})
    if on_gpu(device):
        table.add({"op": "ceilings", "provider": "device", **device_facts(device)})


if __name__ == "__main__":
    main()
