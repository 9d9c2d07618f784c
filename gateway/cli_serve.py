"""`sluice serve`: settings from a file and from options, then the supervisor."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.cli_output import Output, OutputOption
from gateway.config import Admin, Config, Listen, config_problems
from gateway.configfile import dotted, load_config, load_routes, validate
from gateway.core.pool import Backend, Pool
from gateway.errors import ConfigError
from gateway.preflight import preflight
from gateway.supervisor.holdings import Ready
from gateway.supervisor.supervisor import Supervisor
from gateway.telemetry import logs

_DEFAULT_CONFIG = Path("sluice.yaml")


def serve(
    *,
    config: Annotated[Path | None, typer.Option(help="Settings; sluice.yaml where that exists.")] = None,
    routes: Annotated[Path | None, typer.Option(help="Routes to apply at start, where they differ.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Data-plane processes.")] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The data plane's address.")] = None,
    admin: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The admin API's address.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Directory of the store.")] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL[,KEY=VALUE...]",
            help="A Triton of the pool `default`, as in http://127.0.0.1:8000,grpc_port=8001; may be repeated.",
        ),
    ] = None,
    degraded: Annotated[
        bool, typer.Option(help="Serve the last published routes even if the store cannot be opened.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check settings and routes, start nothing.")] = False,
    settings_fd: Annotated[int, typer.Option(hidden=True, help="With --dry-run: where to write them.")] = -1,
    output: OutputOption = Output.TABLE,
) -> None:
    """Run the gateway: a supervisor, a controller and the workers."""

    def read() -> Config:
        """The file with the options over it, checked as far as that goes without starting anything."""
        settings = _settings(config)
        settings = replace(
            settings,
            listen=_address(listen, "--listen", settings.listen) if listen else settings.listen,
            admin=_admin(admin, settings.admin) if admin else settings.admin,
            workers=workers or settings.workers,
            state_dir=str(state_dir) if state_dir else settings.state_dir,
            pools=(_pool(pool),) if pool else settings.pools,
        )
        if wrong := [f"{dotted(problem.where)}: {problem.what}" for problem in config_problems(settings)]:
            raise ConfigError(wrong)
        preflight(settings)
        return replace(settings, state_dir=str(Path(settings.state_dir).absolute()))

    settings = read()
    wanted = load_routes(routes, settings.pools) if routes else None
    if dry_run:
        if settings_fd >= 0:
            os.write(settings_fd, msgspec.msgpack.encode(settings))
        typer.echo('{"valid":true}' if output is Output.JSON else "settings and routes are valid")
        return
    logs.configure(settings.log, process="supervisor")

    def announce(ready: Ready) -> None:
        if output is Output.JSON:
            typer.echo(msgspec.json.encode(ready).decode())
        else:
            typer.echo(f"data plane  {ready.data_url}  ({ready.workers} workers)\nadmin API   {ready.admin_url}")

    supervisor = Supervisor(
        settings,
        routes=wanted,
        degraded=degraded,
        on_ready=announce,
        reread=read,
        command=(sys.executable, *sys.orig_argv[1:]),
    )
    raise typer.Exit(supervisor.run())


def _settings(path: Path | None) -> Config:
    if path is not None:
        return load_config(path)
    return load_config(_DEFAULT_CONFIG) if _DEFAULT_CONFIG.exists() else Config()


def _address(text: str, option: str, default: Listen | Admin) -> Listen:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535) or (not colon and "." in text):
        raise ConfigError([f"{option} {text!r}: must be HOST:PORT or PORT, as in 127.0.0.1:8080"])
    return Listen(host=host or default.host, port=int(port), tls=default.tls)


def _admin(text: str, default: Admin) -> Admin:
    address = _address(text, "--admin", default)
    return replace(default, host=address.host, port=address.port)


def _pool(texts: list[str]) -> Pool:
    return Pool(name="default", backends=tuple(_backend(text) for text in texts))


def _backend(text: str) -> Backend:
    url, *more = text.split(",")
    pairs = [part.partition("=")[::2] for part in more]
    if len({key for key, _ in pairs} | {"url"}) <= len(pairs) or not all(key for key, _ in pairs):
        raise ConfigError([f"--pool {text!r}: must be URL[,KEY=VALUE...], each key once"])
    return validate(
        {"url": url, **dict(pairs)}, Backend, lambda _: (), lambda where: f"--pool {text!r}: {dotted(where)}: "
    )
