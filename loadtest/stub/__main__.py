"""`python -m loadtest.stub --stall-at 3 --stall 1`: run the stub and print its URL."""

import asyncio
from typing import Annotated

import typer

from loadtest.stub.server import Script, Stub


def main(
    *,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.")] = 0,
    latency: Annotated[float, typer.Option(help="Seconds before each answer.")] = 0.0,
    stall_at: Annotated[float, typer.Option(help="Seconds after the first request at which the stall begins.")] = 0.0,
    stall: Annotated[float, typer.Option(help="Length of the stall in seconds.")] = 0.0,
    fail_share: Annotated[float, typer.Option(help="Share of requests answered with 503.")] = 0.0,
    variant: Annotated[list[str] | None, typer.Option(help="NAME=SHARE for x-sluice-variant; may be repeated.")] = None,
) -> None:
    """A scripted V2 server for trying out load tests."""
    shares = tuple((name, float(share)) for name, _, share in (v.partition("=") for v in variant or ()))
    asyncio.run(_serve(Script(latency, stall_at, stall, fail_share, shares), port))


async def _serve(script: Script, port: int) -> None:
    bound = await Stub(script).start(port)
    typer.echo(f"http://127.0.0.1:{bound}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    typer.run(main)
