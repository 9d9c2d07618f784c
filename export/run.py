"""One run of the pipeline: what the steps share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.errors import Step, StepError
from export.load.loaded import Loaded
from export.publish.repository import Repository
from export.request import ExportRequest
from export.spec import Spec
from export.state import State
from export.targets import Target


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step has to say. `skipped` gives the reason when there was nothing to do."""

    output: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    skipped: bool = False


@dataclass(slots=True)
class Run:
    """Everything a step can reach.

    Mutable in `state` (saved after each step), in `loaded` (made again when a resumed run needs it), and in what
    `publish` tells `reload`: the configuration it found and left, and whether it added a version.
    """

    request: ExportRequest
    spec: Spec
    target: Target
    repository: Repository
    work: Path
    state: State
    loader: Callable[[], Loaded]
    loaded: Loaded | None = None
    config_before: str | None = None
    config_after: str | None = None
    added: bool = False

    @property
    def raw(self) -> Path:
        """The graph as the exporter wrote it."""
        return self.work / "raw.onnx"

    @property
    def stripped(self) -> Path:
        """The graph without metadata, in fp32."""
        return self.work / "stripped.onnx"

    @property
    def final(self) -> Path:
        """The bytes that will be published."""
        return self.work / "model.onnx"

    @property
    def plan(self) -> Path | None:
        """The TensorRT plan, when one was built."""
        name = self.state.tensorrt.get("plan")
        return self.work / name if name else None

    @property
    def published(self) -> list[Path]:
        """The model files of the version, in the work directory."""
        return [self.final] if self.plan is None else [self.final, self.plan]

    @property
    def cases(self) -> Path:
        """Inputs and references."""
        return self.work / "cases.npz"

    def model(self) -> Loaded:
        """The loaded model; loads it when a resumed run skipped that."""
        if self.loaded is None:
            self.loaded = self.loader()
        return self.loaded

    def names(self) -> tuple[list[str], list[str]]:
        """Input and output names, as loading found them."""
        return [t.name for t in self.state.inputs], [t.name for t in self.state.outputs]

    def refuse_missing(self, step: Step, path: Path) -> None:
        """A resumed run whose work files are gone says so."""
        if not path.exists():
            raise StepError(step, f"the work file {path.name} of the earlier run is gone; run again with --fresh")
