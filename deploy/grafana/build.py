"""Writes the Grafana dashboards: `python deploy/grafana/build.py`; with --check it says which are not up to date."""

import json
import sys
from pathlib import Path
from typing import Final

from boards_delivery import rollout, shadow
from boards_gateway import fleet, route
from boards_triton import gpu, triton
from panels import to_json

FOLDER: Final = Path(__file__).parent / "dashboards"
BOARDS: Final = (fleet(), route(), rollout(), shadow(), triton(), gpu())


def main(*, check: bool) -> int:
    """0 when all files are as they should be, or were made so."""
    wanted = {f"{board.uid}.json": json.dumps(to_json(board), indent=1, ensure_ascii=False) + "\n" for board in BOARDS}
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if check:
        sys.stdout.writelines(f"not up to date: {FOLDER.name}/{name}\n" for name in stale)
        return int(bool(stale))
    for name in there.keys() - wanted.keys():
        (FOLDER / name).unlink()
    FOLDER.mkdir(exist_ok=True)
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
