"""Reads compiled NVIDIA kernels: does a loop copy ahead of what it computes, and what does a turn consist of?"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

MATRIX = r"\b(wgmma\.mma_async|tcgen05\.mma|mma\.sync)"
INSTRUCTION = r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?"  # what stands before its opcode in SASS
# What a turn's instructions load, by the unit that executes them: name -> opcodes of SASS that begin so.
CLASSES = {
    "matrix": ("HGMMA", "HMMA", "UTCHMMA", "QGMMA", "IMMA", "QMMA", "IGMMA", "UTCQMMA", "UTCIMMA"),
    "special": ("MUFU",),
    "fma": ("FFMA", "FMUL", "FADD", "HFMA2", "HMUL2", "HADD2", "IMAD"),
    "alu": (
        *("FMNMX", "FSETP", "FSEL", "SEL", "F2FP", "PRMT", "LOP3", "PLOP3", "SHF", "LEA", "IADD", "VIADD", "VIMNMX", "IMNMX"),
        *("ISETP", "SGXT", "BMSK", "MOV", "P2R", "R2P", "CS2R", "I2F", "F2I", "F2F"),
    ),
    "uniform": ("U", "R2UR", "VOTEU"),
    "copy": ("LDGSTS", "UBLKCP", "UTMALDG"),
    "load": ("LDG", "LD.", "LDC", "STG"),
    "shared": ("LDS", "STS", "STAS", "SHFL"),
    "wait": ("BAR", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "WARPSYNC", "SYNCS", "FENCE", "MEMBAR", "BSYNC", "BSSY", "NOP"),
    "branch": ("BRA", "EXIT", "CALL", "RET", "JMP", "BREAK", "YIELD"),
}


def prefetch(ptx: str) -> int | None:
    """Tiles that are still on their way to shared memory as a turn begins to compute, the least over the kernel's loops.

    A copy belongs to a group, and a turn waits until a given number of the youngest groups is left. Groups of copies of
    8 or 16 bytes hold rows (a K and a V tile in the lists' loop), those of 4 their indices, which do not count. 0 where a
    loop waits for all copies, or loads what it multiplies without copying ahead; None without a loop.
    """
    loops = _innermost_loops(ptx.splitlines(), r"(\$L__BB\w+):", r"\bbra(?:\.uni)?\s+(\$L__BB\w+);", MATRIX)
    return min(map(_depth, loops), default=None)


def _innermost_loops(lines: list[str], label: str, branch: str, matrix: str) -> list[list[str]]:
    """Lines from a label to the branch back to it, of loops around matrix products without another such loop inside."""
    labels, loops = {}, []
    for number, line in enumerate(lines):
        if found := re.match(label, line):
            labels[found[1]] = number
        elif (found := re.search(branch, line)) and found[1] in labels:
            loops.append((labels[found[1]], number + 1))
    loops = [(begin, end) for begin, end in loops if re.search(matrix, "\n".join(lines[begin:end]))]
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [lines[begin:end] for begin, end in inner]


def _depth(loop: list[str]) -> int:
    """Of one loop; its text may begin anywhere in the turn, so groups before a wait are looked for around the end."""
    groups, waits, width = [], [], 0
    for line in loop:
        if copy := re.search(r"\bcp\.async\.c[ag]\.shared\.global.*?\],\s*\[.*?\],\s*(0x[0-9a-f]+|\d+)", line):
            width = max(width, int(copy[1], 0))
        elif "cp.async.commit_group" in line:
            groups.append(width >= 8)
            width = 0
        elif wait := re.search(r"cp\.async\.wait_group\s+(\d+)", line):
            waits.append((len(groups), int(wait[1])))
    rows_a_turn = sum(groups)
    if not waits or not rows_a_turn:
        return 0
    return min(sum(groups[(at - 1 - back) % len(groups)] for back in range(left)) // rows_a_turn for at, left in waits)


def serialised(ptx: str, arch: str) -> bool:
    """Whether the assembler says that it runs wgmma one after the other (its warnings C7510 to C7519)."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        for name in ("ptxas", "ptxas-blackwell"):  # the first is too old for what the newest Triton writes
            command = [_tool(name), "-v", f"--gpu-name={arch}", source, "-o", Path(folder) / "kernel.cubin"]
            assembled = subprocess.run(command, capture_output=True, text=True)
            if assembled.returncode == 0:
                return re.search(r"C751\d", assembled.stdout + assembled.stderr) is not None
    raise RuntimeError(f"no assembler of this Triton takes its own PTX: {assembled.stderr.strip()}")


def turns(cubin: bytes) -> list[dict]:
    """One turn of each innermost loop around matrix products, as they stand in the kernel.

    Returns:
        "instructions" that one warp executes, and of these "by_class" as in `CLASSES`, "other" for what is in none; "products":
        names of the matrix instructions, such as "IMMA".
    """
    lines, matrix = _read("nvdisasm", cubin, "-c", "--no-dataflow").splitlines(), "|".join(CLASSES["matrix"])
    branch = rf"^{INSTRUCTION}BRA.*`\((\.L_\w+)\)"
    made = []
    for loop in _innermost_loops(lines, r"\s*(\.L_\w+):", branch, rf"(?m)^{INSTRUCTION}({matrix})"):
        opcodes = re.findall(rf"(?m)^{INSTRUCTION}([^\s;]+).*;", "\n".join(loop))
        products = sorted({opcode.split(".")[0] for opcode in opcodes if _class(opcode) == "matrix"})
        made.append({"instructions": len(opcodes), "by_class": dict(Counter(map(_class, opcodes))), "products": products})
    return made


def _class(opcode: str) -> str:
    return next((name for name, begins in CLASSES.items() if opcode.startswith(begins)), "other")


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes that it spills."""
    usage = _read("cuobjdump", cubin, "-res-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    return int(found[1]), int(found[2]) + int(found[3])


def _read(tool: str, cubin: bytes, *options: str) -> str:
    """What a tool says of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_tool(tool), *options, file.name], capture_output=True, text=True, check=True).stdout


@cache
def _tool(name: str) -> Path:
    """A tool that Triton's package brings along."""
    import triton.backends.nvidia

    return Path(triton.backends.nvidia.__file__).parent / "bin" / name
