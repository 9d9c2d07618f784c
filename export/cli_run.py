"""`sluice export SPEC` and `sluice export samples`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from export.cli_output import Format, RunningTriton, errors, out, print_json, with_progress
from export.request import ExportRequest
from export.targets import DEFAULT_TARGET

SAMPLES = (
    ("export.zoo.digits:v1", "digits"),
    ("export.zoo.digits:v2", "digits"),
    ("export.zoo.digits:v3", "digits"),
    ("export.zoo.minilm:encoder", "minilm"),
)

Repo = Annotated[
    str, typer.Option("--repo", help="Model repository: a directory or an fsspec URL such as s3://bucket/prefix.")
]
Output = Annotated[Format, typer.Option("-o", "--output", help="How to print the result.")]


def run(
    spec: Annotated[
        str,
        typer.Argument(help="module:factory, FILE.pt2, FILE.onnx, a Hugging Face directory, mlflow:models:/N@alias."),
    ],
    *,
    repo: Repo,
    name: Annotated[str, typer.Option("--name", help="The model's name in Triton.")],
    precision: Annotated[str, typer.Option(help="fp32 or fp16 (inputs and outputs stay float32).")] = "fp32",
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Also build a TensorRT plan; needs a GPU and TensorRT here.")
    ] = False,
    tensorrt_accelerator: Annotated[
        bool,
        typer.Option("--tensorrt-accelerator", help="Let ONNX Runtime build TensorRT engines when Triton loads it."),
    ] = False,
    max_batch: Annotated[int, typer.Option(help="Largest batch checked and formed.")] = 64,
    target_triton: Annotated[str, typer.Option(help="Triton release to be loadable on.")] = DEFAULT_TARGET,
    target_tensorrt: Annotated[
        str | None,
        typer.Option(help="Its exact TensorRT, which --tensorrt needs: TRT_VERSION in the release's container."),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset (default 18).")] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Serve the new version beside those that are served.")
    ] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Allow SPECs that run code when they are unpickled.")] = False,
    version: Annotated[int | None, typer.Option(help="Version number (default: the next).")] = None,
    samples_file: Annotated[
        Path | None, typer.Option("--samples", help="Real inputs, .npz by input name, for parity and drift.")
    ] = None,
    overlay: Annotated[Path | None, typer.Option(help="A config.pbtxt fragment merged over the generated one.")] = None,
    tolerance: Annotated[
        list[str] | None, typer.Option(help="OUTPUT.FIELD=VALUE, FIELD of rtol, k, cosine, mismatch.")
    ] = None,
    instances: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    instance_count: Annotated[int, typer.Option(help="Instances on each device.")] = 1,
    queue_delay_us: Annotated[int, typer.Option(help="How long Triton may wait for a fuller batch.")] = 500,
    queue_size: Annotated[int, typer.Option(help="Requests that may wait before Triton refuses.")] = 1024,
    queue_timeout_us: Annotated[int, typer.Option(help="How long a request may wait in the queue.")] = 1_000_000,
    preferred_batch: Annotated[list[int] | None, typer.Option(help="Preferred batch size; repeatable.")] = None,
    response_cache: Annotated[bool, typer.Option("--response-cache", help="Let Triton cache responses.")] = False,
    reconfigure: Annotated[
        bool, typer.Option("--reconfigure", help="Allow configuration changes that reload all versions.")
    ] = False,
    serve_check: Annotated[str, typer.Option(help="A Triton's URL[,grpc_port=N], local, auto or off.")] = "auto",
    triton: RunningTriton = None,
    work: Annotated[
        Path | None, typer.Option(help="Where work in progress is kept (default: beside the repository).")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not resume an earlier run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Every check, no publication.")] = False,
    output: Output = Format.table,
) -> None:
    """Export SPEC."""
    with errors():
        request = ExportRequest.model_validate(
            {
                "spec": spec,
                "repo": repo,
                "name": name,
                "precision": precision,
                "tensorrt": "plan" if tensorrt else "accelerator" if tensorrt_accelerator else "off",
                "max_batch": max_batch,
                "target_triton": target_triton,
                "target_tensorrt": target_tensorrt,
                "opset": opset,
                "promote": promote,
                "trust": trust,
                "version": version,
                "samples": samples_file,
                "overlay": overlay,
                "tolerances": tuple(tolerance or ()),
                "instances": instances,
                "instance_count": instance_count,
                "queue_delay_us": queue_delay_us,
                "queue_size": queue_size,
                "queue_timeout_us": queue_timeout_us,
                "preferred_batch_sizes": tuple(preferred_batch or ()),
                "response_cache": response_cache,
                "reconfigure": reconfigure,
                "serve_check": serve_check,
                "triton": triton,
                "work": work,
                "fresh": fresh,
                "dry_run": dry_run,
            }
        )
        result = _run_one(request, output)
        if output is Format.json:
            print_json(result)


def samples(
    repo: Repo,
    only: Annotated[list[str] | None, typer.Option(help="Only the models of this name; repeatable.")] = None,
    serve_check: Annotated[str, typer.Option(help="A Triton's URL[,grpc_port=N], local, auto or off.")] = "off",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Every check, no publication.")] = False,
    output: Output = Format.table,
) -> None:
    """Export the sample models, every version served; versions that are there already stay as they are."""
    with errors():
        results = []
        for version, (spec, name) in enumerate(SAMPLES, 1):
            if only and name not in only:
                continue
            request = ExportRequest(spec=spec, repo=repo, name=name, version=version if name == "digits" else 1,
                                    promote=True, serve_check=serve_check, dry_run=dry_run)  # fmt: skip
            results.append(_run_one(request, output))
        if output is Format.json:
            print_json(results)


def _run_one(request: ExportRequest, output: Format) -> dict[str, Any]:
    from export import pipeline  # noqa: PLC0415  (keeps --help quick)

    if output is Format.json:
        result = pipeline.run(request)
    else:
        out.print(f"[bold]{escape(request.spec)}[/] -> {request.name}")
        result = with_progress(lambda progress: pipeline.run(request, progress))
        where = f"version [bold]{result.version}[/] in {escape(result.repo)}"
        published = where if result.version else "nothing published (dry run)"
        out.print(f"{result.name}: {published}, {result.seconds:.1f} s")
    return {
        "name": result.name, "version": result.version, "repo": result.repo, "seconds": round(result.seconds, 3),
        "steps": msgspec.to_builtins(result.reports),
    }  # fmt: skip
