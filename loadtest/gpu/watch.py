"""How busy the GPUs are while something runs, from nvidia-smi once a second."""

import contextlib
import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

_QUERY = "utilization.gpu,memory.used,power.draw"


class Watch:
    """What was seen so far; empty without a GPU."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, float, float]] = []

    def take(self, line: str) -> None:
        """One line of nvidia-smi's answer; lines that hold no figures are left out."""
        with contextlib.suppress(ValueError):
            utilization, memory, power = (float(part) for part in line.split(","))
            self._rows.append((utilization, memory, power))

    def summary(self) -> dict[str, Any] | None:
        """Mean and highest utilization (per cent), highest memory (MiB), mean power (W); None without samples."""
        if not self._rows:
            return None
        utilization, memory, power = zip(*self._rows, strict=True)
        return {
            "utilization_mean": statistics.fmean(utilization),
            "utilization_max": max(utilization),
            "memory_max_mib": max(memory),
            "power_mean_w": statistics.fmean(power),
            "samples": len(self._rows),
        }


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Watches all GPUs together until the end of the block."""
    watch = Watch()
    program = shutil.which("nvidia-smi")
    if program is None:
        yield watch
        return
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", "--loop=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            watch.take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        process.terminate()
        process.wait(10)
        thread.join(5)
        output.close()
