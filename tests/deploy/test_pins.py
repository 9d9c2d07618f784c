"""What is installed is what was tested: every dependency has one exact version, in one place."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def constraints() -> dict[str, str]:
    """Exact version by canonical name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line) for line in lines]
    assert None not in pins, [line for line, pin in zip(lines, pins, strict=True) if pin is None]
    return {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}


def requirements() -> list[Requirement]:
    """All requirements of the project but those of the `gpu` extra, which excludes the `cpu` one."""
    extras = PROJECT["optional-dependencies"]
    texts = PROJECT["dependencies"] + [text for name in extras if name != "gpu" for text in extras[name]]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_requirement_is_pinned(requirement: Requirement) -> None:
    """Its pin exists and satisfies it."""
    pins = constraints()
    name = canonicalize_name(requirement.name)
    assert name in pins
    assert requirement.specifier.contains(pins[name])


def test_pins_name_no_place() -> None:
    """No path, no address: where packages come from is up to the machine."""
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "@" not in text


def test_torch_is_pinned_the_same_everywhere() -> None:
    """The Makefile installs it before anything else, so it names the version too."""
    assert f"torch=={constraints()['torch']}" in (ROOT / "Makefile").read_text()


def test_ci_runs_what_the_readme_says() -> None:
    """`.ci/run` is the documented test command."""
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"
    assert "make test" in (ROOT / "README.md").read_text()
