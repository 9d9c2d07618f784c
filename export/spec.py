"""What a SPEC may be, told from its text alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from export.errors import UsageError

_FACTORY = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<factory>[A-Za-z_]\w*)")
KINDS = (
    "module:factory, FILE.pt2, FILE.onnx, a Hugging Face directory, mlflow:models:/NAME@ALIAS or mlflow:runs:/RUN/PATH"
)


@dataclass(frozen=True, slots=True)
class FactorySpec:
    """A function `factory` of the importable `module`."""

    module: str
    factory: str


@dataclass(frozen=True, slots=True)
class Pt2Spec:
    """A saved torch.export program."""

    path: Path


@dataclass(frozen=True, slots=True)
class OnnxSpec:
    """A finished ONNX file; it is its own reference."""

    path: Path


@dataclass(frozen=True, slots=True)
class HuggingFaceSpec:
    """A directory with config.json and weights, as transformers saves it."""

    path: Path


@dataclass(frozen=True, slots=True)
class MlflowSpec:
    """A URI of an MLflow tracking store or registry."""

    uri: str


@dataclass(frozen=True, slots=True)
class PickleSpec:
    """A pickled module: running it runs whatever its author wrote, so `--trust` is asked for."""

    path: Path


Spec = FactorySpec | Pt2Spec | OnnxSpec | HuggingFaceSpec | MlflowSpec | PickleSpec


def parse(text: str) -> Spec:
    """The kind of SPEC; UsageError when there is no such file or no such kind."""
    if text.startswith("mlflow:"):
        uri = text.removeprefix("mlflow:")
        if not uri.startswith(("models:/", "runs:/")):
            raise UsageError(
                f"SPEC {text!r}: after mlflow: comes models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/PATH"
            )
        return MlflowSpec(uri)
    path = Path(text)
    by_suffix: dict[str, type[Pt2Spec] | type[OnnxSpec] | type[PickleSpec]] = {
        ".pt2": Pt2Spec,
        ".onnx": OnnxSpec,
        ".pt": PickleSpec,
        ".pth": PickleSpec,
        ".pkl": PickleSpec,
    }
    if path.suffix in by_suffix:
        if not path.is_file():
            raise UsageError(f"SPEC {text!r}: no such file")
        return by_suffix[path.suffix](path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"SPEC {text!r}: the directory has no config.json, so it is no Hugging Face model")
        return HuggingFaceSpec(path)
    if match := _FACTORY.fullmatch(text):
        return FactorySpec(match["module"], match["factory"])
    raise UsageError(f"SPEC {text!r} is none of: {KINDS}")
