"""Starts real controllers in a moment: imports everything once, then forks one for each `start` on standard input.

Arguments: the descriptor of a ControllerBoot's memory file. Commands, one a line: `start`, `kill`, `quit`; each is
answered with `ok`. A controller that dies by itself ends the program with its exit status.
"""

import os
import signal
import sys

from gateway.boot import ControllerBoot
from gateway.controlplane import controller
from gateway.telemetry import logs


def main() -> None:
    """Obeys until told to quit."""
    boot = ControllerBoot.from_fd(int(sys.argv[1]))
    logs.configure(boot.config.log, process="controller")
    child = 0
    for line in sys.stdin:
        command = line.strip()
        if child and command in {"kill", "quit"}:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            child = 0
        if command == "quit":
            return
        if command == "start":
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = controller.run(boot)
                finally:
                    os._exit(status)
            boot.routes = None  # as the supervisor does: a later controller must not undo what was applied since
        sys.stdout.write("ok\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
