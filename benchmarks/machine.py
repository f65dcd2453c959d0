"""What a measurement was taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from model.widened_products import has_bfloat16_instructions


def describe_machine() -> dict[str, str | int]:
    """CPU and the vector instructions PyTorch uses of it, memory, GPU and versions, for the record beside a result."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "has_bfloat16_instructions": has_bfloat16_instructions(),
        "num_cores": os.cpu_count() or 0,
        "memory_gb": round(memory * 1024 / 1e9),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def process_memory_bytes(field: str, process: int | str = "self") -> int:
    """Bytes that `/proc` tells of a process, by default this one: `VmRSS` held now, `VmHWM` at most so far.

    0 where the process has ended.
    """
    line = next((line for line in _lines(f"/proc/{process}/status") if line.startswith(f"{field}:")), None)
    return int(line.split()[1]) * 1024 if line else 0


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
