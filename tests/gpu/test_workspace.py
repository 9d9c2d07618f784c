"""Stages are done once, in order, within the time there is; what is done survives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import FileError
from loadtest.gpu.workspace import Stage, Workspace


def stages(done: list[str], *keys: str, seconds: float = 1.0) -> list[Stage]:
    """Stages that note their key when they are done."""

    def work(key: str) -> Mapping[str, Any]:
        done.append(key)
        return {"key": key}

    return [Stage(key, seconds, lambda key=key: work(key)) for key in keys]  # type: ignore[misc]


def test_a_stage_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    """The second run does only what is new, and knows the first one's results."""
    done: list[str] = []
    assert Workspace(tmp_path, {"a": 1}).run(stages(done, "one", "two"), 60, lambda _: None)
    again = Workspace(tmp_path, {"a": 1})
    assert again.run(stages(done, "one", "two", "three"), 60, lambda _: None)
    assert done == ["one", "two", "three"]
    assert again.result("one") == {"key": "one"}


def test_nothing_is_begun_that_may_not_fit(tmp_path: Path) -> None:
    """With too little time for a stage the run ends before it, says so, and is not complete."""
    done: list[str] = []
    said: list[str] = []
    workspace = Workspace(tmp_path, {})
    assert not workspace.run(stages(done, "one", seconds=100), 50, said.append)
    assert done == []
    assert "run the same command again" in said[0]
    assert workspace.run(stages(done, "one", seconds=100), 150, said.append)
    assert done == ["one"]


def test_a_stage_that_fails_leaves_no_result(tmp_path: Path) -> None:
    """What came before it is kept."""

    def fail() -> Mapping[str, Any]:
        raise RuntimeError("broken")

    done: list[str] = []
    workspace = Workspace(tmp_path, {})
    with pytest.raises(RuntimeError):
        workspace.run([*stages(done, "one"), Stage("two", 1, fail)], 60, lambda _: None)
    assert workspace.result("one") is not None
    assert workspace.result("two") is None


def test_results_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    """A folder belongs to one set of settings."""
    Workspace(tmp_path, {"each_s": 8.0})
    with pytest.raises(FileError, match="other settings"):
        Workspace(tmp_path, {"each_s": 3.0})
