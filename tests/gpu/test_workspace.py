"""Stages are done once, in order, within the time there is; what is done survives."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import BrokenRunError, FileError
from loadtest.gpu.measure import Bench, Settings
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
    assert Workspace(tmp_path, {"a": 1}).run(stages(done, "one", "two"), 60, lambda _: None).complete
    again = Workspace(tmp_path, {"a": 1})
    assert again.run(stages(done, "one", "two", "three"), 60, lambda _: None).complete
    assert done == ["one", "two", "three"]
    assert again.result("one") == {"key": "one"}


def test_nothing_is_begun_that_may_not_fit(tmp_path: Path) -> None:
    """With too little time for a stage the run ends before it, says so, and is not complete."""
    done: list[str] = []
    said: list[str] = []
    workspace = Workspace(tmp_path, {})
    assert not workspace.run(stages(done, "one", seconds=100), 50, said.append).complete
    assert done == []
    assert "run the same command again" in said[0]
    assert workspace.run(stages(done, "one", seconds=100), 150, said.append).complete
    assert done == ["one"]


def test_a_stage_that_fails_leaves_no_result(tmp_path: Path) -> None:
    """What needs it is left out with it, all else is done, and the next run tries again."""

    def fail() -> Mapping[str, Any]:
        raise BrokenRunError("broken")

    done: list[str] = []
    workspace = Workspace(tmp_path, {})
    (three,) = stages(done, "three")
    work = [*stages(done, "one"), Stage("two", 1, fail), replace(three, after="two"), *stages(done, "four")]
    seen = workspace.run(work, 60, lambda _: None)
    assert not seen.complete
    assert seen.failed == {"two": "broken", "three": "needs two"}
    assert done == ["one", "four"]
    assert workspace.result("two") is None
    assert workspace.run([*stages(done, "two"), replace(three, after="two")], 60, lambda _: None).complete
    assert done == ["one", "four", "two", "three"]


def test_a_mistake_of_the_program_ends_the_run(tmp_path: Path) -> None:
    """Only failures that were foreseen are passed over."""

    def fail() -> Mapping[str, Any]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Workspace(tmp_path, {}).run([Stage("one", 1, fail)], 60, lambda _: None)


def test_exports_outlive_neither_their_use_nor_their_files(tmp_path: Path) -> None:
    """A model is exported when it is needed and not there, also where the result says that it once was."""
    settings = Settings(
        cpu=True, names=("digits",), precisions=("fp32",), workers=(1,), each_s=3, compare_s=8, top=100, processes=1
    )
    workspace = Workspace(tmp_path, {})
    export, *rest = Bench(workspace, settings).stages()
    assert export.needed is not None
    assert export.needed()
    assert all(stage.after == export.key for stage in rest)
    assert all(stage.seconds < 600 for stage in rest)

    (tmp_path / "results" / f"{export.key}.json").write_text("{}")
    assert export.needed()
    (tmp_path / "repository" / "digits-fp32" / "1").mkdir(parents=True)
    assert not export.needed()
    (tmp_path / "results" / f"{export.key}.json").unlink()
    for stage in rest:
        (tmp_path / "results" / f"{stage.key}.json").write_text("{}")
    assert not export.needed()


def test_results_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    """A folder belongs to one set of settings."""
    Workspace(tmp_path, {"each_s": 8.0})
    with pytest.raises(FileError, match="other settings"):
        Workspace(tmp_path, {"each_s": 3.0})
