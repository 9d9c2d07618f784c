"""YAML read into plain values together with the line of every key, so that a later check can point at it."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from gateway.errors import ConfigError

Where = tuple[str | int, ...]
MAX_BYTES = 8 << 20
_MAX_NODES = 200_000


class _Stop(Exception):  # noqa: N818 - leaves the recursion with one problem
    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class _Builder:
    """Turns a node tree into values, refusing what YAML would silently accept."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._left = _MAX_NODES
        self.lines: dict[Where, int] = {}

    def build(self, node: yaml.Node, where: Where) -> Any:
        self._left -= 1
        if self._left < 0:  # aliases of aliases grow without bound
            raise _Stop(node.start_mark.line + 1, f"more than {_MAX_NODES} values")
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*where, i)) for i, child in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except (ValueError, OverflowError, yaml.constructor.ConstructorError) as error:
            what = getattr(error, "problem", None) or str(error)
            raise _Stop(node.start_mark.line + 1, f"{node.value[:60]!r} is not valid: {what}") from error

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                name = repr(key.value)[:60] if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _Stop(line, f"keys must be text, not {name}")
            if key.value in seen:
                raise _Stop(line, f"key {key.value!r} appears twice (first on line {seen[key.value]})")
            seen[key.value] = line
        self._loader.flatten_mapping(node)
        value: dict[Hashable, Any] = {}
        for key, child in node.value:
            path = (*where, key.value)
            self.lines[path] = key.start_mark.line + 1
            value[key.value] = self.build(child, path)
        return value


def parse(text: str, name: str) -> tuple[Any, dict[Where, int]]:
    """The document's plain value and the line of every path in it; raises ConfigError naming file and line."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            builder = _Builder(loader)
            return (None, {}) if node is None else (builder.build(node, ()), builder.lines)
        finally:
            loader.dispose()
    except _Stop as stop:
        raise ConfigError([f"{name}:{stop.line}: {stop}"]) from stop
    except yaml.MarkedYAMLError as error:
        raise ConfigError([f"{name}:{_line(error)}: not valid YAML: {_reason(error)}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([f"{name}:{line}: not valid YAML: {error.reason}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{name}: nested too deeply"]) from error


def read_text(path: Path) -> str:
    """A configuration file's text; raises ConfigError when it is missing, too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: no such file"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    if len(data) > MAX_BYTES:
        raise ConfigError([f"{path}: larger than {MAX_BYTES >> 20} MiB"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})"]) from error


def _line(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def _reason(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "unreadable"
    if "'\\t'" in problem:
        return "a tab cannot indent; use spaces"
    return problem
