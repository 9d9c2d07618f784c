"""`sluice triton`: a real Triton on this machine, without a container."""

import json
import signal
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from gateway.cli_output import Output, OutputOption
from gateway.errors import ExitCode
from gateway.localtriton import logs
from gateway.localtriton.errors import TritonDiedError
from gateway.localtriton.server import LocalTriton

_WATCH_S = 0.2


class ModelControl(StrEnum):
    """Triton's model control modes that make sense here."""

    EXPLICIT = "explicit"
    NONE = "none"


def triton(
    *,
    repository: Annotated[Path, typer.Option("--repository", "-r", help="Model repository.")] = Path(
        "model_repository"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0 picks a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 picks a free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Metrics port; 0 picks a free one.")] = 8002,
    model_control: Annotated[ModelControl, typer.Option(help="Who loads models.")] = ModelControl.EXPLICIT,
    load: Annotated[list[str] | None, typer.Option(help="Model to load at the start, repeatable; all if none.")] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="Triton's output [default: .sluice/triton-PORT.log].", show_default=False)
    ] = None,
    ready_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until it must be ready.")] = 120.0,
    exit_timeout: Annotated[float, typer.Option(min=0, help="Seconds for requests in flight on stop.")] = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Serve a model repository with a real Triton until SIGTERM or Ctrl-C.

    Prints its addresses once it is ready; as JSON, in one line. Needs the package nvidia-pytriton (installed without
    its dependencies), whose files it runs; models of the onnxruntime backend are run by ONNX Runtime from PyPI.

    Exit codes: 0 stopped on request; 1 Triton died; 2 wrong usage; 3 no such repository; 4 a port, the wheel, numpy 1
    or libpython is missing; 6 not ready in time.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server = LocalTriton(
        repository,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        model_control=model_control.value,
        load=tuple(load or ["*"]),
        log_file=log_file,
        ready_timeout_s=ready_timeout,
        exit_timeout_s=exit_timeout,
    )
    try:
        if server.start(stopping):
            _announce(server, output)
            _watch(server, stopping)
    finally:
        if not server.stop():
            typer.echo(f"Triton did not end within {exit_timeout:g} s and was killed", err=True)
    raise typer.Exit(int(ExitCode.OK))


def _announce(server: LocalTriton, output: Output) -> None:
    facts = {
        "http": server.http_url,
        "grpc": server.grpc_address,
        "metrics": server.metrics_url,
        "pid": server.pid,
        "log": str(server.log_file),
    }
    if output is Output.JSON:
        typer.echo(json.dumps(facts))
        return
    if output is Output.YAML:
        typer.echo(yaml.safe_dump(facts, sort_keys=False), nl=False)
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Triton is ready, serving {server.repository}", markup=False)
    for name, value in facts.items():
        console.print(f"  {name:8} {value}", markup=False)


def _watch(server: LocalTriton, stopping: threading.Event) -> None:
    while not stopping.wait(_WATCH_S):
        status = server.exit_status
        if status is not None:
            raise TritonDiedError(
                f"Triton ended while serving ({logs.describe_exit(status)}): {logs.reason(server.log_text())}\n"
                f"its log: {server.log_file}"
            )
