"""Files and JSON bodies to frozen values, or one line per problem: where it is, what is wrong, what was meant."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gateway import yamltree
from gateway.config import Config, config_problems
from gateway.core import rollout_policy
from gateway.core.pool import Pool
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.route import Problem, Routes, problems
from gateway.errors import ConfigError
from gateway.yamltree import Where

T = TypeVar("T")
Check = Callable[[T], Iterable[Problem]]


def load_config(path: Path) -> Config:
    """Reads and checks sluice.yaml; raises ConfigError."""
    return _load(path, Config, config_problems)


def load_routes(path: Path, pools: tuple[Pool, ...] | None = None) -> Routes:
    """Reads and checks routes.yaml, against the pools where they are known; raises ConfigError."""
    return _load(path, Routes, lambda value: route_problems(value, pools))


def load_policy(path: Path) -> RolloutPolicy:
    """Reads and checks a rollout policy in a file of its own; raises ConfigError."""
    return _load(path, RolloutPolicy, policy_problems)


def parse_routes(text: str, name: str, pools: tuple[Pool, ...] | None = None) -> Routes:
    """Checks routes given as YAML (or JSON) text; `name` stands for the file in messages. Raises ConfigError."""
    return _parse(text, name, Routes, lambda value: route_problems(value, pools))


def parse_json(body: bytes, kind: type[T], check: Check[T] = lambda _: ()) -> T:
    """Checks a JSON request body; problems carry the key's path. Raises ConfigError."""
    try:
        raw = json.loads(body, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"body is not valid JSON: {error}"]) from error
    return validate(raw, kind, check, lambda where: f"{dotted(where)}: " if where else "")


def validate(raw: object, kind: type[T], check: Check[T], prefix: Callable[[Where], str]) -> T:
    """Plain data to a frozen value of `kind`; `prefix` says where a path is. Raises ConfigError."""
    try:
        value = _adapter(kind).validate_python(raw)
    except ValidationError as error:
        details = _own(error.errors(include_url=False, include_context=False))
        found = [(tuple(detail["loc"]), _explain(detail, kind)) for detail in details]
        raise ConfigError([prefix(_known(where, kind)) + what for where, what in found]) from error
    wrong = [prefix(problem.where) + problem.what for problem in check(value)]
    if wrong:
        raise ConfigError(wrong)
    return value


def route_problems(value: Routes, pools: tuple[Pool, ...] | None) -> list[Problem]:
    """Contradictions inside a set of routes; pool names are checked only where the pools are known."""
    if pools is None:
        names = {variant.pool for route in value.routes for variant in route.variants}
        pools = tuple(Pool(name=name, backends=()) for name in names)
    return problems(value.routes, pools)


def policy_problems(policy: RolloutPolicy) -> list[Problem]:
    """Contradictions inside a policy."""
    return [Problem(tuple(key.split(".")), what) for key, what in rollout_policy.problems(policy)]


def dotted(where: Where) -> str:
    """A path of keys and indices as people write it: `routes[0].variants`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def minimal(value: object) -> Any:
    """A frozen value as plain data without what equals its default: what a person would have written."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: (getattr(value, f.name), f) for f in dataclasses.fields(value)}
        return {name: minimal(item) for name, (item, field) in fields.items() if item != _default(field)}
    if isinstance(value, tuple | list):
        return [minimal(item) for item in value]
    if isinstance(value, dict):
        return {key: minimal(item) for key, item in value.items()}
    return value


def _load(path: Path, kind: type[T], check: Check[T]) -> T:
    return _parse(yamltree.read_text(path), str(path), kind, check)


def _parse(text: str, name: str, kind: type[T], check: Check[T]) -> T:
    raw, lines = yamltree.parse(text, name)
    if raw is None:
        raise ConfigError([f"{name}: the file is empty"])
    if not isinstance(raw, dict):
        raise ConfigError([f"{name}:{lines[()]}: must be a mapping of keys, not {_kind(raw)}"])

    def prefix(where: Where) -> str:
        line = next(lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines)
        return f"{name}:{line}: {dotted(where)}: " if where else f"{name}:{line}: "

    return validate(raw, kind, check, prefix)


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # one per kind of value; building one is slow


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _own(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without complaints that a list is too short because its items are wrong."""
    places = [detail["loc"] for detail in details]
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(len(place) > len(detail["loc"]) and place[: len(detail["loc"])] == detail["loc"] for place in places)
    ]


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} appears twice")
    return value


def _explain(error: ErrorDetails, kind: type) -> str:
    where, given = error["loc"], error.get("input")
    match error["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            known = _keys(kind, where[:-1])
            near = get_close_matches(str(where[-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            return f"unknown key {where[-1]!r}; {hint}"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "is missing"
        case "dataclass_type" | "dataclass_exact_type" | "dict_type":
            return f"must be a mapping, not {_kind(given)}"
        case "tuple_type" | "list_type":
            return f"must be a list, not {_kind(given)}"
        case "too_short" if not given:
            return "must not be empty"
    text = error["msg"].replace("Input should be", "must be").replace("Input should have", "must have")
    text = text.removeprefix("Value error, ")
    return f"{text} (is {_short(given)})"


def _known(where: Where, kind: type) -> Where:
    """The path without the tags that pydantic adds for members of a union."""
    kept: list[str | int] = []
    for part in where:
        if isinstance(part, int) or not _is_tag(kind, (*kept, part)):
            kept.append(part)
    return tuple(kept)


def _is_tag(kind: type, where: Where) -> bool:
    members = _members(_at(kind, where[:-1]))
    return len(members) > 1 and where[-1] in {getattr(member, "__name__", "") for member in members}


def _keys(kind: type, where: Where) -> list[str]:
    for member in _members(_at(kind, where)):
        if dataclasses.is_dataclass(member):
            return [field.name for field in dataclasses.fields(member) if field.name != "epoch"]
    return []


def _at(kind: object, where: Where) -> object:
    """The type that belongs at a path of keys and indices; None where the path leaves the known types."""
    for part in where:
        following: object = None
        for member in _members(kind):
            if isinstance(part, int) and get_origin(member) in {tuple, list}:
                following = get_args(member)[0]
            elif dataclasses.is_dataclass(member) and isinstance(member, type):
                following = get_type_hints(member).get(str(part), following)
        kind = following
    return kind


def _members(kind: object) -> tuple[object, ...]:
    if get_origin(kind) in {Union, UnionType}:
        return tuple(member for member in get_args(kind) if member is not type(None))
    return (kind,)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return _short(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
