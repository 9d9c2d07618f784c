"""Writes the reference pages: `python -m gateway.reference [DIRECTORY]`."""

import sys
from pathlib import Path

from gateway.reference import api, commands, metrics, settings

PAGES = {
    "commands.md": commands.page,
    "settings.md": settings.page,
    "metrics.md": metrics.page,
    "admin-api.md": api.page,
}


def write(directory: Path) -> None:
    """Writes all pages."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (directory / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference"))
