"""What the documentation names exists: pages, anchors, commands with their options, make targets, modules, settings."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
import yaml

from gateway.cli import PARTS, command_tree, load_part
from gateway.configfile import load_config, load_routes
from gateway.errors import ConfigError
from tests.docs.pages import PAGES, ROOT, anchors, blocks, links, name, shell_lines, spans, words

_PLACEHOLDERS = {"N": "1", "ROUTE": "digits", "URL": "http://127.0.0.1:8000", "FILE": "result.json", "SPEC": "m:f"}
_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


class WrongError(Exception):
    """A command line that is not accepted."""


# Typer brings its own copy of click, and exports only some of its exceptions.
_REFUSED = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def parse(arguments: list[str]) -> None:
    """Lets the command's own parser read a command line, and runs nothing."""
    arguments = [_PLACEHOLDERS.get(word, word) for word in arguments]
    tree = command_tree()
    context = typer.Context(tree, info_name="sluice")
    if not arguments or arguments[0].startswith("-"):
        return
    first, *rest = arguments
    command = load_part(first) if first in PARTS else tree.get_command(context, first)
    if command is None:
        raise WrongError(f"no command {first!r}")
    while True:
        try:
            context = command.make_context(first, list(rest), parent=context)
        except typer.Exit:  # --help
            return
        left = [*getattr(context, "_protected_args", ()), *context.args]
        if not hasattr(command, "commands"):
            if left:
                raise WrongError(f"unexpected {left}")
            return
        if not left:
            return
        _, command, rest = command.resolve_command(context, left)
        assert command is not None
        first = left[0]


def check(command: list[str], *, mention: bool = False) -> str:
    """What is wrong with a command; empty when nothing is, or when it is none of ours.

    A mention in the text may leave arguments out.
    """
    program, *rest = command
    if program == "sluice":
        try:
            parse(rest)
        except WrongError as error:
            return str(error)
        except _REFUSED as error:
            short = type(error).__name__ in {"MissingParameter", "NoArgsIsHelpError", "BadOptionUsage"}
            return "" if mention and short else f"{type(error).__name__}: {error}"
    elif program == "make":
        missing = [w for w in rest if not w.startswith("-") and "=" not in w and w not in _TARGETS]
        return f"no target {missing}" if missing else ""
    elif program.endswith("python") and rest[:1] == ["-m"]:
        return "" if rest[1] in {"pip", "venv"} or find_spec(rest[1]) else f"no module {rest[1]}"
    elif program.endswith("python") and rest and rest[0].endswith(".py"):
        return "" if (ROOT / rest[0]).exists() else f"no file {rest[0]}"
    elif program == "promtool" and rest[-1].endswith(".yml"):
        return "" if list(ROOT.glob(rest[-1])) else f"no file {rest[-1]}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository, and every anchor a heading of that page."""
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist_with_their_options(page: Path) -> None:
    """Every command in a shell block, and every `sluice ...` in the text, passes its own parser."""
    commands = [command for line in shell_lines(page) for command in words(line)]
    mentions = [command for span in spans(page) for command in words(span)]
    wrong = {" ".join(command): reason for command in commands if (reason := check(command))}
    wrong |= {" ".join(command): reason for command in mentions if (reason := check(command, mention=True))}
    assert wrong == {}


def test_a_command_that_does_not_exist_is_found() -> None:
    """The check itself can fail: unknown commands, options, values and targets."""
    assert check(["sluice", "roll-back"])
    assert check(["sluice", "rollback", "--rout", "digits"])
    assert check(["sluice", "get", "everything"])
    assert check(["sluice", "rollout", "begin", "digits"])
    assert check(["make", "gpu-bunch"])
    assert check(["python", "-m", "loadtest.cpu"])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_settings_are_accepted(page: Path, tmp_path: Path) -> None:
    """Every whole sluice.yaml or routes.yaml passes the gateway's own reader; python blocks compile."""
    for i, block in enumerate(blocks(page)):
        if block.language == "python":
            compile(block.text, f"{name(page)}#{i}", "exec")
        if block.language != "yaml":
            continue
        file = tmp_path / f"{i}.yaml"
        file.write_text(block.text)
        value = yaml.safe_load(block.text)
        try:
            if block.text.startswith("# sluice.yaml"):
                load_config(file)
            elif list(value) == ["routes"]:
                load_routes(file)
        except ConfigError as error:
            pytest.fail(str(error))


def test_every_page_can_be_found() -> None:
    """Each page is linked from another one, or lies in a directory that is."""
    linked: set[Path] = set()
    for page in PAGES:
        linked |= {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if not link.startswith("#")}
    lost = [name(p) for p in PAGES if p not in linked and p.parent not in linked]
    assert [page for page in lost if page not in {"README.md", "docs/README.md"}] == []
