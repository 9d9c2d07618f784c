"""Counts what goes wrong while a gateway is replaced again and again under load.

`python -m tests.operations.restarts [workers|all] [times]` prints one JSON line.
"""

import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.operations.backend import backend
from tests.operations.serving import serving, settings, until
from tests.operations.test_restart import Load, pids, replaced


def main(what: str = "workers", times: str = "20") -> None:
    """Runs it."""
    number = signal.SIGUSR1 if what == "workers" else signal.SIGUSR2
    with tempfile.TemporaryDirectory() as folder, backend() as triton:
        place = Path(folder)
        with serving(place, settings(place, triton.url, workers=2)) as gateway:
            began = time.monotonic()
            with Load(gateway.port, pause_s=0.002) as one, Load(gateway.port, pause_s=0.002) as two:
                for _ in range(int(times)):
                    before = pids(gateway)
                    gateway.process.send_signal(number)
                    until(lambda before=before: replaced(gateway, before, 2), 60)
            took = time.monotonic() - began
    wrong, served = one.wrong + two.wrong, one.served + two.served
    found = {
        "replaced": what,
        "times": int(times),
        "requests": served,
        "per_s": round(served / took),
        "wrong": len(wrong),
    }
    sys.stdout.write(json.dumps(found | {"examples": wrong[:5]}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
