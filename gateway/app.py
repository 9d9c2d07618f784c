"""What `sluice serve` starts as separate processes: `python -m gateway.app worker|controller FD PARENT`.

Each role imports only what it needs: an idle worker must stay small, so it never loads the control plane's libraries.
"""

import sys

from gateway.boot import Boot, ControllerBoot
from gateway.errors import ExitCode, SluiceError
from gateway.supervisor.child import die_with_parent
from gateway.telemetry import logs


def main(role: str, fd: int, parent: int) -> int:
    """Runs one role until it is told to stop; returns its exit code."""
    die_with_parent(parent)
    try:
        if role == "worker":
            boot = Boot.from_fd(fd)
            logs.configure(boot.config.log, process="worker", worker=boot.worker)
            from gateway.dataplane.worker import run  # noqa: PLC0415 - see the module's docstring

            return run(boot)
        controller = ControllerBoot.from_fd(fd)
        logs.configure(controller.config.log, process="controller")
        from gateway.controlplane.controller import run as run_controller  # noqa: PLC0415

        return run_controller(controller)
    except SluiceError as error:
        print(f"sluice: {role}: {error}", file=sys.stderr)  # noqa: T201 - logs may be what failed
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
