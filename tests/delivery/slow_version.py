"""A model on a real Triton whose version 2 says when its load has begun, and ends it when it may."""

from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.triton import zoo

_SLOW = """
from pathlib import Path
Path({begun!r}).touch()
until = time.monotonic() + 90
while not Path({go!r}).exists() and time.monotonic() < until:
    time.sleep(0.02)
"""


@dataclass(frozen=True)
class SlowVersion:
    """Model `m`; version 1 is served.

    Attributes:
        repository: for Triton.
        begun: exists once version 2 is being loaded.
        go: lets that load end.
    """

    repository: Path
    begun: Path
    go: Path


def slow_version(place: Path) -> SlowVersion:
    """Writes the repository."""
    made = SlowVersion(place / "repository", place / "begun", place / "go")
    root = made.repository
    root.mkdir()
    (zoo.build(place / "zoo") / "slow").rename(root / "m")
    config, source = root / "m" / "config.pbtxt", (root / "m" / "1" / "model.py").read_text()
    config.write_text(config.read_text() + "version_policy { specific { versions: 1 } }\n")
    (root / "m" / "2").mkdir()
    (root / "m" / "2" / "model.py").write_text(source + _SLOW.format(begun=str(made.begun), go=str(made.go)))
    return made


def ready_versions(url: str) -> set[str]:
    """Versions of `m` that are served."""
    rows = httpx.post(f"{url}/v2/repository/index", trust_env=False, timeout=60).json()
    return {row["version"] for row in rows if row["name"] == "m" and row.get("state") == "READY"}
