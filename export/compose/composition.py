"""Publishing what is made of published models: locks, staging, policy, serve check and manifest as for any version."""

from __future__ import annotations

import datetime
import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import ExportError, Step, StepError, UsageError
from export.graph import files
from export.numeric.compare import compare, worse
from export.numeric.tolerance import Tolerance
from export.publish import manifest as manifests
from export.publish import policy as policies
from export.publish.repository import MANIFEST, Repository
from export.serving import local, proto
from export.serving.client import Triton
from export.state import Observed
from export.targets import TARGETS

Array = npt.NDArray[np.generic]
LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Piece:
    """One model of a composition: its configuration and the files of its version directory, by relative path."""

    name: str
    config: dict[str, Any]
    contents: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """A request to the composition, step by step for sequences, with what must come back."""

    inputs: dict[str, Array]
    expected: dict[str, Array]
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Composition:
    """Pieces in the order in which they may be published (the last is what clients ask) on top of `needs`."""

    spec: str
    pieces: tuple[Piece, ...]
    needs: tuple[tuple[str, int], ...]
    checks: tuple[Check, ...]
    tolerance: Tolerance


def published(repository: Repository, name: str, version: int | None) -> tuple[manifests.Manifest, bytes, Any]:
    """Manifest, graph and configuration of a version (default: the newest) of `name`."""
    number = version or max(repository.versions(name), default=0)
    text = repository.config(name)
    if text is None or number not in repository.versions(name):
        raise UsageError(f"{repository.url} has no {name}{f' version {version}' if version else ''}")
    message, _ = policies.read(text, f"{name}/config.pbtxt")
    record = manifests.decode(repository.read(name, number, MANIFEST), f"{name}/{number}/{MANIFEST}")
    graph = next(path for path in record.files if path.endswith(files.GRAPH))
    return record, repository.read(name, number, graph), message


def agree(repository: Repository, made: Composition) -> None:
    """StepError when a piece is no configuration, or differs from the one that its earlier versions have."""
    for piece in made.pieces:
        _agreed(repository, piece)


def _agreed(repository: Repository, piece: Piece) -> tuple[Any, policies.Policy | None]:
    message = _config_message(piece)
    text = repository.config(piece.name)
    if text is None:
        return message, None
    current, policy = policies.read(text, f"{piece.name}/config.pbtxt")
    if differing := policies.differences(current, message):
        raise StepError(
            Step.CONFIG,
            f"{piece.name}/config.pbtxt differs in {', '.join(differing)}; a composition on another version or "
            "contract needs another name",
        )
    return message, policy


def publish(repository: Repository, made: Composition, observed: dict[str, Observed]) -> dict[str, int]:
    """Publish each piece as a version; name -> version. A piece whose bytes are there already keeps its version."""
    return {piece.name: _publish_piece(repository, made, piece, observed) for piece in made.pieces}


def _publish_piece(repository: Repository, made: Composition, piece: Piece, observed: dict[str, Observed]) -> int:
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in piece.contents.items()}
    with repository.lock(piece.name, LOCK_TIMEOUT_S):
        message, policy = _agreed(repository, piece)
        for version in repository.versions(piece.name):
            record = manifests.recorded(repository, piece.name, version)
            if record is not None and record.files == hashes:
                return version
        version = max(repository.versions(piece.name), default=0) + 1
        changed = policies.write(message, policy.with_version(version) if policy else policies.Policy((version,)))
        staged = repository.staging(piece.name)
        try:
            for path, data in piece.contents.items():
                (staged / path).write_bytes(data)
            record = _manifest(made, piece, version, hashes, changed, observed)
            (staged / MANIFEST).write_bytes(manifests.encode(record))
            repository.add_version(piece.name, version, staged, changed)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return version


def serve(repository: Repository, made: Composition, work: Path) -> dict[str, Observed]:
    """What a Triton of our own answers to the checks, in `work`; StepError when it differs, with the check as evidence.

    UnavailableError when no Triton can be started here.
    """
    stage = work / "serve-check"
    shutil.rmtree(stage, ignore_errors=True)
    try:
        for name, version in made.needs:
            for path in repository.files(name, version):
                place = stage / name / str(version) / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(repository.read(name, version, path))
            message, _ = policies.read(repository.config(name) or "", name)
            (stage / name / "config.pbtxt").write_text(policies.write(message, policies.Policy((version,))))
        for piece in made.pieces:
            directory = stage / piece.name / "1"
            directory.mkdir(parents=True)
            for path, data in piece.contents.items():
                (directory / path).write_bytes(data)
            text = policies.write(_config_message(piece), policies.Policy((1,)))
            (stage / piece.name / "config.pbtxt").write_text(text)
        with local.serve(stage, work / "triton.log") as url, Triton(url) as triton:
            return _answers(triton, made, work)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _answers(triton: Triton, made: Composition, work: Path) -> dict[str, Observed]:
    front = made.pieces[-1].name
    observed: dict[str, Observed] = {}
    for number, check in enumerate(made.checks):
        actual = triton.infer(front, None, check.inputs, check.parameters)
        for output, expected in check.expected.items():
            outcome = compare(f"check-{number}", actual[output], expected, made.tolerance)
            observed[output] = worse(observed.get(output), outcome.observed)
            if outcome.reason:
                told = {**check.inputs, **{f"expected.{n}": v for n, v in check.expected.items()}}
                told |= {f"served.{n}": v for n, v in actual.items()}
                plain = {n: v.astype(np.bytes_) if v.dtype == object else v for n, v in told.items()}
                np.savez(work / "served.worst.npz", **plain)  # type: ignore[arg-type]
                raise StepError(
                    Step.SERVE_CHECK,
                    f"{front}: output {output!r} of check {number}: {outcome.reason}",
                    {"worst": work / "served.worst.npz"},
                )
    return observed


def _config_message(piece: Piece) -> Any:
    try:
        return proto.from_dict(piece.config)
    except ExportError as error:
        raise StepError(Step.CONFIG, f"{piece.name}: {error}") from error


def _manifest(
    made: Composition, piece: Piece, version: int, hashes: dict[str, str], config: str, observed: dict[str, Observed]
) -> manifests.Manifest:
    return manifests.Manifest(
        name=piece.name,
        version=version,
        spec=made.spec,
        source="composition",
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        precision="fp32",
        target={"triton": list(TARGETS)[-1]},
        opset=0,
        max_batch=int(piece.config.get("max_batch_size", 0)),
        files=hashes,
        graph_sha256="",
        weights_sha256="",
        config_sha256=hashlib.sha256(config.encode()).hexdigest(),
        git=manifests.git_state(Path.cwd()),
        tools=manifests.tools(),
        inputs=[],
        outputs=[],
        axes={},
        cases=[f"check-{number}" for number in range(len(made.checks))],
        samples_are="synthetic",
        seeds={},
        metrics={},
        labels={"made_of": [f"{name} version {number}" for name, number in made.needs]},
        tolerances=dict.fromkeys(made.checks[0].expected, made.tolerance),
        observed={"served": observed} if observed else {},
        fp32_nodes=[],
        tensorrt={},
        reference={},
        steps=[],
    )
