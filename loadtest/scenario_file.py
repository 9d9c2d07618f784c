"""Reading scenario and objectives files: one clear message with file, line, key and the nearest valid name."""

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from loadtest.errors import FileError
from loadtest.objectives import Objective
from loadtest.scenario import Scenario

_Model = TypeVar("_Model", bound=BaseModel)


class ObjectivesFile(BaseModel):
    """A file that holds nothing but objectives; they replace those of the scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objectives: tuple[Objective, ...]


def built_in() -> dict[str, str]:
    """Name to text of the scenarios that come with Sluice."""
    folder = files("loadtest").joinpath("scenarios")
    return {
        p.name.removesuffix(".yaml"): p.read_text(encoding="utf-8")
        for p in sorted(folder.iterdir(), key=lambda p: p.name)
        if p.name.endswith(".yaml")
    }


def load_scenario(name_or_path: str) -> Scenario:
    """A built-in scenario by name, or one from a file.

    Raises:
        FileError: there is no such scenario or file, or it is invalid.
    """
    own = built_in()
    if name_or_path in own:
        return parse_scenario(own[name_or_path], source=f"{name_or_path} (built in)")
    path = Path(name_or_path)
    if path.is_file():
        return parse_scenario(path.read_text(encoding="utf-8"), source=name_or_path)
    near = difflib.get_close_matches(name_or_path, own, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else f"; built in are {', '.join(own)}"
    raise FileError(f"scenario `{name_or_path}`: neither built in nor a file{hint}")


def parse_scenario(text: str, *, source: str) -> Scenario:
    """Validate the text of a scenario file; `source` names it in messages."""
    return _validate(Scenario, text, source)


def load_objectives(path: Path) -> Sequence[Objective]:
    """Objectives from a file with the single key `objectives`.

    Raises:
        FileError: the file is missing or invalid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise FileError(f"objectives file {path}: {e.strerror}") from None
    return _validate(ObjectivesFile, text, str(path)).objectives


def _validate(model: type[_Model], text: str, source: str) -> _Model:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise FileError(f"{source}: not valid YAML: {' '.join(str(e).split())}") from None
    try:
        return model.model_validate(data)
    except ValidationError as e:
        # A misspelt key is reported twice, as unknown and as missing; the first of the two is the one that helps.
        problem = min(e.errors(include_url=False), key=lambda p: p["type"] != "extra_forbidden")
        raise FileError(f"{source}, {_explain(problem, model, node)}") from None


def _explain(problem: Any, model: type[BaseModel], node: yaml.Node | None) -> str:
    """Where in the file the problem is, and what it is, in one line."""
    models: list[type[BaseModel]] = [model]
    names: list[str] = []
    valid: list[str] = []
    line = 1
    for part in problem["loc"]:
        if isinstance(part, int):
            names.append(str(part))
            if isinstance(node, yaml.SequenceNode) and part < len(node.value):
                node = node.value[part]
        elif part in {tag for m in models for tag in _tags(m)} and len(models) > 1:
            models = [m for m in models if part in _tags(m)]
            continue
        else:
            names.append(part)
            valid = [name for m in models for name in m.model_fields]
            models = [inner for m in models if part in m.model_fields for inner in _models_in(m.model_fields[part])]
            key, value = _entry(node, part)
            line = key.start_mark.line + 1 if key else line
            node = value or node
        if node is not None and isinstance(part, int):
            line = node.start_mark.line + 1
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(names[-1], valid, n=1, cutoff=0.5)
        message = "unknown key" + (f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(valid)}")
    return f"line {line}: {'.'.join(names) or 'the file'}: {message}"


def _entry(node: yaml.Node | None, key: str) -> tuple[yaml.Node | None, yaml.Node | None]:
    if isinstance(node, yaml.MappingNode):
        for k, v in node.value:
            if k.value == key:
                return k, v
    return None, None


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def _models_in(field: FieldInfo) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    pending: list[Any] = [field.annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        pending += get_args(annotation)
    return found
