"""The real gateway of a figure: `sluice serve` with settings of its own, on free ports."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtest import servers
from loadtest.overhead import proctree
from loadtest.resilience.ask import fetch_json

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that serves.

    Attributes:
        port: of the data plane.
        admin: URL of the admin API.
        process: its supervisor.
        folder: has its settings and its logs.
    """

    port: int
    admin: str
    process: "subprocess.Popen[bytes]"
    folder: Path

    def ask(self, path: str) -> Any:
        """What the admin API answers."""
        return fetch_json(f"{self.admin}/api/v1{path}")

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [row["pid"] for row in self.ask("/workers") if row["connected"]]

    def worker_cpu_s(self) -> float:
        """CPU time that the workers have used."""
        return sum(proctree.own_cpu_seconds(pid) for pid in self.workers())

    def rss_mib(self) -> float:
        """Resident memory of the workers now."""
        return sum(proctree.memory(pid).now_mib for pid in self.workers())

    def peak_mib(self) -> float:
        """The most that the workers ever had."""
        return sum(proctree.memory(pid).peak_mib for pid in self.workers())


def pool(urls: Sequence[str], name: str = "default", **more: Any) -> dict[str, Any]:
    """A pool of the settings."""
    return {"name": name, "backends": [{"url": url} for url in urls], **more}


def route(**more: Any) -> dict[str, Any]:
    """The route `m` with one variant on the default pool."""
    return {"name": "m", "variants": [{"name": "primary", "model": "m", "weight": 100}], **more}


@contextmanager
def running(folder: Path, name: str, pools: Sequence[Document], routes: Sequence[Document],
            **settings: Any) -> Iterator[Gateway]:  # fmt: skip
    """A gateway until the end of the block, then ended by SIGTERM.

    Raises:
        BrokenRunError: it does not start; the message has the end of its log.
    """
    home = folder / name
    home.mkdir()
    document = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "admin": {"host": "127.0.0.1", "port": 0},
        "workers": 1,
        "state_dir": str(home / "state"),
        "log": {"level": "error"},
        "report_interval_s": 0.2,
        "pools": list(pools),
        **settings,
    }
    (home / "sluice.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (home / "routes.yaml").write_text(yaml.safe_dump({"routes": list(routes)}), encoding="utf-8")
    files = ["--config", str(home / "sluice.yaml"), "--routes", str(home / "routes.yaml")]
    with servers.running(["serve", *files, "-o", "json"], home / "gateway.log", cwd=home) as (process, facts):
        yield Gateway(int(facts["data_url"].rpartition(":")[2]), facts["admin_url"], process, home)
