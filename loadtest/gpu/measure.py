"""The stages: export, knees direct and through the gateway, and the load at which they are set side by side."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from loadtest import errors, results, servers
from loadtest.gpu import models
from loadtest.gpu.models import Model
from loadtest.gpu.watch import watching
from loadtest.gpu.workspace import Stage, Workspace
from loadtest.knee import lowest_judgeable
from loadtest.objectives import Objective

DIRECT: Final = "direct"
DELIVERY: Final = "canary and shadow"
_EXPORT_S: Final = 480.0
_START_S: Final = 60.0
# Of a search: most probes, what starting each takes, how many may be beyond the knee and wait for late answers.
_PROBES: Final = 18
_PROBE_START_S: Final = 5.0
_OVERLOADED: Final = 8
_WAIT_S: Final = 12.0
# The load that is compared: below the lowest knee, so that no side is judged in its overload.
_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured and how long.

    Attributes:
        cpu: small models on the processor.
        names: of the models; empty for all.
        precisions: fp32, fp16.
        workers: numbers of gateway workers.
        each_s: seconds of one probe.
        compare_s: seconds of the comparison.
        top: highest rate that is tried.
        processes: of the load generator.
        within: how well a knee is to be known, 0.1 for 10 %.
        smoke: one short probe each, to see that everything works; says nothing about speed.
    """

    cpu: bool
    names: tuple[str, ...]
    precisions: tuple[str, ...]
    workers: tuple[int, ...]
    each_s: float
    compare_s: float
    top: float
    processes: int
    within: float = 0.1
    smoke: bool = False

    def models(self) -> list[Model]:
        """The chosen models.

        Raises:
            UsageError: there is none of a name.
        """
        known = models.CPU if self.cpu else models.GPU
        names = {model.name for model in known}
        if wrong := set(self.names) - names:
            raise errors.UsageError(f"no model {', '.join(sorted(wrong))}; there are {', '.join(sorted(names))}")
        chosen = [model for model in known if not self.names or model.name in self.names]
        return [models.smoke(model) for model in chosen] if self.smoke else chosen

    def served(self) -> list[tuple[Model, str]]:
        """Every model in every precision, with its name in Triton."""
        return [(m, f"{m.name}-{precision}") for m in self.models() for precision in self.precisions]

    def arms(self) -> list[str]:
        """Ways to reach a model, in the order in which they are measured."""
        counts = () if self.smoke else self.workers
        return [DIRECT, *(f"{n} workers" if n > 1 else "1 worker" for n in counts), DELIVERY]


class Bench:
    """One run in one workspace."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._workspace = workspace
        self._settings = settings
        self._folder = workspace.folder
        self._repository = self._folder / "repository"

    def stages(self) -> list[Stage]:
        """All of them, model by model: its export, its knees and the comparison."""
        s = self._settings
        found: list[Stage] = []
        for model, name in s.served():
            ways = [key(name, arm) for arm in s.arms()]
            export, load = f"export-{name}", key(name, "load")
            later = [*ways, load]
            found.append(
                Stage(
                    export,
                    _EXPORT_S,
                    lambda m=model, n=name: self._export(m, n),  # type: ignore[misc]
                    # Results are small and outlive a machine; an exported model is large, may be gone, and is made
                    # anew only for what is still to be measured.
                    needed=lambda n=name, rest=later: self._export_needed(n, rest),  # type: ignore[misc]
                )
            )
            found += [
                Stage(stage, self._knee_s, lambda m=model, n=name, a=arm: self._knee(m, n, a), after=export)  # type: ignore[misc]
                for stage, arm in zip(ways, s.arms(), strict=True)
            ]
            seconds = s.compare_s + _START_S
            found.append(Stage(load, seconds, lambda m=model, n=name: self._load(m, n), after=export))  # type: ignore[misc]
        return found

    def _export_needed(self, name: str, later: Sequence[str]) -> bool:
        there = self._workspace.result(f"export-{name}") is not None and (self._repository / name / "1").is_dir()
        return not there and any(self._workspace.result(stage) is None for stage in later)

    @property
    def _knee_s(self) -> float:
        """What a search takes at most: doublings and halvings over the range, with answers that are waited for."""
        return _START_S + _PROBES * (self._settings.each_s + _PROBE_START_S) + _OVERLOADED * _WAIT_S

    def _export(self, model: Model, name: str) -> Mapping[str, Any]:
        device = "cpu" if self._settings.cpu else "gpu"
        arguments = ["--repo", str(self._repository), "--name", name, "--precision", name.rpartition("-")[2]]
        arguments += ["--max-batch", str(model.max_batch), "--instances", device, "--serve-check", "off", "--promote"]
        log = self._log(f"export-{name}")
        servers.call("export", model.spec, *arguments, "-o", "json", log=log, timeout_s=_EXPORT_S)
        return {"spec": model.spec}

    def _knee(self, model: Model, name: str, arm: str) -> Mapping[str, Any]:
        s, file = self._settings, self._folder / f"{key(name, arm)}.json"
        low = self._lowest(model)
        top = low if s.smoke else max(low, s.top)
        with ExitStack() as stack:
            triton = stack.enter_context(servers.triton(self._repository, name, self._log(f"triton-{name}")))
            host = self._host(stack, triton, name, arm)
            watch = stack.enter_context(watching())
            servers.call(
                "loadtest", "knee", "--host", host, "--scenario", str(self._scenario(model, name)),
                "--from", f"{low:g}", "--to", f"{top:g}", "--precision", f"{s.within:g}",
                "--each", f"{s.each_s:g}", "--processes", str(s.processes), "--json", str(file),
                log=self._log(key(name, arm)), timeout_s=self._knee_s,
                fine=(0, errors.EXIT_MISSED, errors.EXIT_UNDECIDED),
            )  # fmt: skip
        report = msgspec.json.decode(file.read_bytes())
        return {"knee": report["knee"], "probes": report["probes"], "gpu": watch.summary()}

    def _load(self, model: Model, name: str) -> Mapping[str, Any]:
        """Direct and through the gateway in turns, in one run, with canary and shadow on."""
        knees = [found["knee"]["rate_per_s"] for arm in (DIRECT, DELIVERY) if (found := self.knee(name, arm))]
        rate = max(1.0, _SHARE * min((rate for rate in knees if rate), default=model.low))
        s, file = self._settings, self._folder / f"{key(name, 'load')}.json"
        with ExitStack() as stack:
            triton = stack.enter_context(servers.triton(self._repository, name, self._log(f"triton-{name}")))
            host = self._host(stack, triton, name, DELIVERY)
            watch = stack.enter_context(watching())
            servers.call(
                "loadtest", "run", "--scenario", str(self._scenario(model, name)),
                "--arm", f"direct={triton}", "--arm", f"gateway={host}", "--stats-url", triton,
                "--level", f"{rate:g}", "--duration", f"{s.compare_s:g}", "--processes", str(s.processes),
                "--json", str(file),
                log=self._log(key(name, "load")), timeout_s=s.compare_s + _START_S,
                fine=(0, errors.EXIT_MISSED, errors.EXIT_UNDECIDED),
            )  # fmt: skip
        run = results.read(file)
        return {
            "rate": rate,
            "groups": [msgspec.to_builtins(group) for group in run.groups],
            "comparison": msgspec.to_builtins(run.comparison),
            "batches": msgspec.to_builtins(run.batch_sizes),
            "gpu": watch.summary(),
        }

    def knee(self, name: str, arm: str) -> dict[str, Any] | None:
        """What was found for one way to reach a model."""
        return self._workspace.result(key(name, arm))

    def load(self, name: str) -> dict[str, Any] | None:
        """What was found side by side."""
        return self._workspace.result(key(name, "load"))

    def _host(self, stack: ExitStack, triton: str, name: str, arm: str) -> str:
        if arm == DIRECT:
            return triton
        workers = max(self._settings.workers) if arm == DELIVERY else int(arm.partition(" ")[0])
        routes = models.routes(name, delivery=arm == DELIVERY)
        return stack.enter_context(servers.gateway(self._folder / key(name, arm), triton, routes, workers))

    def _lowest(self, model: Model) -> float:
        """The model's lowest rate, or the lowest one that a probe can judge."""
        asked = [Objective.model_validate(objective) for objective in model.objectives]
        return max(model.low, 1.02 * lowest_judgeable(asked, self._settings.each_s - 1))

    def _scenario(self, model: Model, name: str) -> Path:
        file = self._folder / f"scenario-{name}.yaml"
        file.write_text(yaml.safe_dump(models.scenario(model, name)))
        return file

    def _log(self, name: str) -> Path:
        folder = self._folder / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"


def key(name: str, arm: str) -> str:
    """The name of a stage's files."""
    return f"{name}-{arm}".replace(" ", "-")


def worker_counts(wanted: Sequence[int], cores: int) -> tuple[int, ...]:
    """Numbers of workers to try: those asked for, else powers of two up to half of the cores."""
    if wanted:
        return tuple(sorted(set(wanted)))
    found = [1]
    while found[-1] * 2 <= max(1, cores // 2):
        found.append(found[-1] * 2)
    return tuple(found)
