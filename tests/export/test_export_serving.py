"""A running Triton judges the bytes before they are published, and loads them after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from tritonclient.http import InferenceServerClient
from typer.testing import CliRunner

from export.cli import app
from export.errors import Step, StepError
from export.pipeline import Progress, run
from export.publish import upkeep
from export.publish.open import open_repository
from export.request import ExportRequest
from export.serving.client import Triton, TritonError
from export.state import StepReport
from gateway.localtriton import wheel
from tests.export.conftest import Exporter


@pytest.mark.parametrize("over", ["gRPC", "HTTP"])
def test_lent_checked_published_and_loaded(
    tmp_path: Path, export_into: Exporter, start_triton: Callable[..., Any], over: str
) -> None:
    """With a running Triton, a version is checked there under another name, published, promoted, loaded and asked."""
    repo = tmp_path / "repo"
    export_into(repo, "tests.export.broken:healthy", "live")
    server = start_triton(repo)
    url = server.http_url
    address = f"{url},grpc_port={server.grpc_port}" if over == "gRPC" else url
    result = export_into(repo, "tests.export.broken:other", "live", promote=True, serve_check=address, triton=address)
    steps = {report.step: report.status for report in result.reports}
    assert (steps["serve-check"], steps["reload"]) == ("ok", "ok")
    with Triton(url) as triton:
        assert {version for version, (state, _) in triton.states("live").items() if state == "READY"} == {1, 2}
        rows = {"features": np.ones((1, 5), dtype=np.float32)}
        first, second = (triton.infer("live", version, rows)["value"] for version in (1, 2))
        assert np.allclose(second - first, 1.0, atol=1e-5)
    manifest = json.loads((repo / "live" / "2" / "manifest.json").read_text())
    assert manifest["observed"]["served"]["value"]["excess"] <= 1
    assert upkeep.overview(open_repository(str(repo)))[0].served == [1, 2]


def test_tolerance_of_one_output_holds_in_every_check(tmp_path: Path, start_triton: Callable[..., Any]) -> None:
    """An output that is off is refused by name, also when another one is given room; given its own, it is served."""
    repo = tmp_path / "repo"
    repo.mkdir()
    url = start_triton(repo).http_url

    def call(*tolerance: str) -> Result:
        command = ["tests.export.broken:approximate", "--repo", str(repo), "--name", "live", "--max-batch", "8"]
        return CliRunner().invoke(app, [*command, "--serve-check", url, "--triton", url, "-o", "json", *tolerance])

    for tolerance in ((), ("--tolerance", "value.k=0.01")):
        refused = call(*tolerance)
        assert refused.exit_code == 16
        assert "refused at parity: output 'smooth' differs" in " ".join(refused.stderr.split())
        assert list(repo.iterdir()) == []
    done = call("--tolerance", "smooth.k=0.01")
    assert done.exit_code == 0, done.output
    steps = {step["step"]: step["status"] for step in json.loads(done.stdout)["steps"]}
    judges = ("parity", "independence", "serve-check", "reload")
    assert {step: steps[step] for step in judges} == dict.fromkeys(judges, "ok")
    record = json.loads((repo / "live" / "1" / "manifest.json").read_text())
    assert {name: limits["k"] for name, limits in record["tolerances"].items()} == {"value": 1e-4, "smooth": 0.01}
    seen = {check: outputs["smooth"]["max_abs"] for check, outputs in record["observed"].items()}
    assert seen["parity"] == seen["served"] > 1e-4


def test_promotion_and_rollback_are_confirmed_or_undone(
    tmp_path: Path, export_into: Exporter, start_triton: Callable[..., Any]
) -> None:
    """With --triton, exactly the served versions are READY and a new one answers; else nothing changes."""
    repo, elsewhere = tmp_path / "repo", tmp_path / "elsewhere"
    export_into(repo, "export.zoo.shapes:mixed", "live", max_batch=4)
    export_into(repo, "export.zoo.shapes:mixed", "live", max_batch=4, precision="fp16")
    elsewhere.mkdir()
    server, other = start_triton(repo), start_triton(elsewhere).http_url
    url = server.http_url
    config = repo / "live" / "config.pbtxt"
    before = config.read_text()

    def ready() -> set[int]:
        with Triton(url) as triton:
            return {version for version, (state, _) in triton.states("live").items() if state == "READY"}

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--repo", str(repo), "-o", "json"])

    for stranger in (other, "http://127.0.0.1:9", f"{url},grpc_port=9"):
        refused = call("promote", "live", "2", "--triton", stranger)
        assert refused.exit_code == 30
        assert "the earlier policy was restored" in " ".join(refused.stderr.split())
        assert config.read_text() == before
    assert (call("promote", "live", "2", "--triton", url, "--dry-run").exit_code, ready()) == (0, {1})
    for wrong in (f"{url},grpc=8001", f"{url},grpc_port=x", f"{url},grpc_port=70000", f"{url},", "http://"):
        refused = call("promote", "live", "2", "--triton", wrong)
        assert (refused.exit_code, config.read_text()) == (2, before)
        assert "URL,grpc_port=N" in refused.stderr.replace("\n", "")
    by_grpc = f"{url},grpc_port={server.grpc_port}"
    for arguments, address, served in (
        (["promote", "live", "2", "--alone"], url, {2}),
        (["rollback", "live"], by_grpc, {1}),
    ):
        done = call(*arguments, "--triton", address)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["verified"] == address
        assert ready() == served


def test_taking_a_publication_back_leaves_what_others_published_meanwhile(
    tmp_path: Path, start_triton: Callable[..., Any]
) -> None:
    """Triton loads none of these versions; those whose publisher did not ask it stay, first ones and later ones."""
    repo, wish = tmp_path / "repo", tmp_path / "wish.pbtxt"
    repo.mkdir()
    wish.write_text('parameters { key: "execution_mode" value { string_value: "sideways" } }')
    url = start_triton(repo).http_url

    def publish(factory: str, triton: str | None, progress: Progress) -> None:
        options = {"overlay": wish, "promote": True, "serve_check": "off", "triton": triton}
        spec = f"tests.export.broken:{factory}"
        run(ExportRequest.model_validate({"spec": spec, "repo": str(repo), "name": "live", **options}), progress)

    def meanwhile(factory: str) -> Progress:
        def progress(step: Step, report: StepReport | None) -> None:
            if step is Step.RELOAD and report is None:
                publish(factory, None, lambda _step, _report: None)

        return progress

    for mine, theirs, served, earlier in (("healthy", "other", [2], []), ("third", "healthy", [2, 4], [[2]])):
        with pytest.raises(StepError, match="what others published meanwhile stays") as caught:
            publish(mine, url, meanwhile(theirs))
        assert caught.value.step is Step.RELOAD
        (row,) = upkeep.overview(open_repository(str(repo)))
        assert (row.versions, row.served, row.before) == (served, served, earlier)
    assert not any(finding.problems for finding in upkeep.check(open_repository(str(repo)), None))
    with pytest.raises(StepError, match="out of the repository again"):
        run(ExportRequest(spec="tests.export.broken:healthy", repo=str(repo), name="alone", overlay=wish, triton=url,
                          serve_check="off"))  # fmt: skip
    assert [path.name for path in repo.iterdir()] == ["live"]


def test_own_triton_judges_and_goes(tmp_path: Path, export_into: Exporter) -> None:
    """`--serve-check local` starts a Triton through the command line, compares all cases, and leaves none running."""
    result = export_into(tmp_path / "repo", "export.zoo.shapes:rank_one", "rank_one", max_batch=4, serve_check="local")
    report = next(report for report in result.reports if report.step == "serve-check")
    assert report.status == "ok"
    assert report.output["cases"] >= 4
    url = report.output["triton"]
    with Triton(url, timeout_s=2) as triton, pytest.raises(TritonError, match="refused"):
        triton.states("rank_one")


def test_response_cache_answers_the_second_time(
    tmp_path: Path, export_into: Exporter, start_triton: Callable[..., Any]
) -> None:
    """Of two models, Triton with its local cache answers a repeated request from it only where --response-cache was."""
    repo = tmp_path / "repo"
    export_into(repo, "tests.export.broken:healthy", "cached", response_cache=True)
    export_into(repo, "tests.export.broken:healthy", "plain")
    caches = wheel.locate().server.parents[1] / "caches"
    server = start_triton(
        repo, extra_args=(f"--cache-directory={caches}", f"--cache-config=local,size={1 << 20}"), ready_timeout_s=120
    )
    rows = {"features": np.linspace(-1, 1, 5, dtype=np.float32).reshape(1, 5)}
    with Triton(server.http_url) as triton, InferenceServerClient(server.http_address) as client:
        requests = (rows, rows, {"features": rows["features"] + 1})
        asked = {n: [triton.infer(n, 1, sent)["value"] for sent in requests] for n in ("cached", "plain")}
        seen = {name: client.get_inference_statistics(name)["model_stats"][0]["inference_stats"] for name in asked}
    assert np.array_equal(asked["cached"], asked["plain"])
    assert not np.array_equal(asked["cached"][1], asked["cached"][2])
    hits = {name: (stats["cache_hit"]["count"], stats["cache_miss"]["count"]) for name, stats in seen.items()}
    assert hits == {"cached": (1, 2), "plain": (0, 0)}
