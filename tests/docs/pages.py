"""The documentation as data: pages, links, headings, code blocks, commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_OPERATORS = {"|", "||", "&&", "&", ";", ">", "<", "2>&1"}


@dataclass(frozen=True)
class Block:
    """One fenced block, its indentation taken off."""

    language: str
    text: str


def name(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(page.read_text()):
        lines = [line.removeprefix(match[1]) for line in match[3].splitlines()]
        found.append(Block(match[2], "\n".join(lines) + "\n"))
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """The targets of its links and pictures that lie in the repository."""
    return [target for target in _LINK.findall(prose(page)) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def shell_lines(page: Path) -> Iterator[str]:
    """The commands in its shell blocks, continued lines joined."""
    for block in blocks(page):
        if block.language in {"sh", "bash", "shell"}:
            yield from (line for line in block.text.replace("\\\n", " ").splitlines() if line.strip())


def spans(page: Path) -> Iterator[str]:
    """Commands of `sluice` inside its text."""
    for span in _SPAN.findall(prose(page)):
        if re.match(r"sluice [a-z]", span) and not re.search(r"[…|\[(=]|\.\.\.", span):
            yield span


def words(line: str) -> list[list[str]]:
    """The simple commands of a line, each as its words; assignments in front and redirections are left out."""
    found: list[list[str]] = [[]]
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "{}:%@,$~[]()"
    for word in lexer:
        if word in _OPERATORS:
            found.append([])
        elif not found[-1] and re.fullmatch(r"[A-Z_]+=.*", word):
            continue
        else:
            found[-1].append(word)
    return [command for command in found if command]
