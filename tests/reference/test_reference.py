"""The reference pages say what the code does today."""

from pathlib import Path

import pytest

from gateway.reference.__main__ import PAGES

_PAGES = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    """After a change of settings, commands, metrics or endpoints: `python -m gateway.reference` writes the pages."""
    assert (_PAGES / name).read_text(encoding="utf-8") == PAGES[name](), "run: python -m gateway.reference"


def test_every_setting_and_option_has_a_meaning() -> None:
    """No empty cells: a field without a line in its docstring or an option without help stands out."""
    text = PAGES["commands.md"]()
    empty = [line for line in text.splitlines() if line.startswith("| `--") and line.endswith("|  |")]
    assert empty == []
