"""Publishing to object storage, against a real S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from export.errors import LockedError
from export.publish import holder, upkeep
from export.publish.open import open_repository
from export.publish.remote import FsspecRepository
from tests.export.conftest import Exporter
from tests.export.object_storage import BUCKET, URL, Gate, listing, storage


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """An empty repository at URL, on an S3 server of its own."""
    with storage(tmp_path / "cache") as gate:
        yield gate


def test_versions_policy_and_check_on_s3(gate: Gate, export_into: Exporter) -> None:
    """Publish, promote, roll back, check and collect leave the same objects as a directory would hold files."""
    export_into(URL, "tests.export.broken:healthy", "live")
    assert listing() == [f"repository/live/{path}" for path in ("1/manifest.json", "1/model.onnx", "config.pbtxt")]
    export_into(URL, "tests.export.broken:other", "live")
    repository = open_repository(URL)
    assert upkeep.overview(repository)[0].served == [1]
    assert upkeep.promote(repository, "live", 2).after == [1, 2]
    assert upkeep.rollback(repository, "live").after == [1]
    assert not any(finding.problems for finding in upkeep.check(repository, None))
    assert upkeep.collect(repository, "live", keep=0, dry_run=False) == ["live/2"]
    assert repository.versions("live") == [1]


def test_data_comes_before_manifest_before_configuration(gate: Gate, export_into: Exporter) -> None:
    """A version is written in this order under its lease, and what a killed publisher left there is no part of it."""
    stray = "repository/live/1/model_sm90.plan"
    boto3.client("s3").put_object(Bucket=BUCKET, Key=stray, Body=b"of a publisher that was killed")
    gate.writes.clear()
    export_into(URL, "tests.export.broken:healthy", "live")
    lock, version = "repository.sluice/locks/live", "repository/live/1"
    assert [write for write in gate.writes if not write.startswith("POST")] == [
        f"PUT /{BUCKET}/{lock}",
        f"PUT /{BUCKET}/{version}/model.onnx",
        f"PUT /{BUCKET}/{version}/manifest.json",
        f"PUT /{BUCKET}/repository/live/config.pbtxt",
        f"DELETE /{BUCKET}/{lock}",
    ]
    assert stray not in listing()
    assert upkeep.check(open_repository(URL), None)[1].problems == []


def test_number_that_the_policy_serves_is_never_given_away(gate: Gate, export_into: Exporter) -> None:
    """A version that somebody put there by hand has no manifest, but it is served: the next one is another."""
    export_into(URL, "tests.export.broken:healthy", "live")
    repository = open_repository(URL)
    text = repository.config("live") or ""
    boto3.client("s3").put_object(Bucket=BUCKET, Key="repository/live/2/model.onnx", Body=b"by hand")
    repository.write_config("live", text.replace("versions: 1", "versions: 1\n    versions: 2"))
    assert export_into(URL, "tests.export.broken:other", "live").version == 3
    assert repository.read("live", 2, "model.onnx") == b"by hand"


def test_lease_keeps_a_second_publisher_out(gate: Gate) -> None:
    """While one holds the lease another gives up in time, and an expired lease is taken over."""
    first, second = FsspecRepository(URL), FsspecRepository(URL, now=lambda: 1e12)
    with first.lock("live", 1.0):
        with pytest.raises(LockedError, match="is held by process"), FsspecRepository(URL).lock("live", 0.1):
            raise AssertionError("two publishers")
        with second.lock("live", 1.0):
            assert any("locks/live" in key for key in listing())
    assert not [key for key in listing() if "locks" in key]


def test_lease_is_renewed_while_its_holder_lives(gate: Gate) -> None:
    """Another waits in vain for several times what a lease lasts without a renewal."""
    lease_s = 1.0
    with (
        FsspecRepository(URL, lease_s=lease_s).lock("live", 1.0),
        pytest.raises(LockedError, match="is held by process"),
        FsspecRepository(URL).lock("live", 3 * lease_s),
    ):
        raise AssertionError("two publishers")
    assert listing() == []


def test_publisher_that_lost_its_lease_writes_nothing_that_counts(gate: Gate, tmp_path: Path) -> None:
    """It was silent for too long and another took over: it ends with that reason, and the other's version stays."""
    for who in ("silent", "other"):
        (tmp_path / who).mkdir()
        (tmp_path / who / "model.onnx").write_text(who)
        (tmp_path / who / "manifest.json").write_text("{}")
    silent, other = FsspecRepository(URL), FsspecRepository(URL, now=lambda: 1e12)
    with silent.lock("live", 1.0):
        silent.add_version("live", 1, tmp_path / "silent", "one")
        with other.lock("live", 1.0):
            other.add_version("live", 2, tmp_path / "other", "two")
            gate.writes.clear()
            with pytest.raises(LockedError, match="was lost"):
                silent.add_version("live", 3, tmp_path / "silent", "three")
            with pytest.raises(LockedError, match="was lost"):
                silent.write_config("live", "three")
            with pytest.raises(LockedError, match="was lost"):
                silent.remove_version("live", 2)
            assert gate.writes == []
    assert (other.versions("live"), other.config("live")) == ([1, 2], "two")


def test_lease_of_a_dead_process_is_taken_over_and_of_another_machine_is_not(gate: Gate) -> None:
    """Who was killed here is seen at once; of another machine nobody can tell, so its lease has to expire."""
    lease = "from export.publish.remote import FsspecRepository; import os, sys\n"
    lease += "with FsspecRepository(sys.argv[1]).lock('live', 1.0): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", lease, URL], check=False).returncode == 9
    (key,) = listing()
    left = json.loads(boto3.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read())
    left["owner"]["machine"] = "another"
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(left))
    with pytest.raises(LockedError), FsspecRepository(URL).lock("live", 0.1):
        raise AssertionError("taken from another machine")
    left["owner"]["machine"] = holder.myself()["machine"]
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(left))
    with FsspecRepository(URL).lock("live", 1.0):
        assert listing() == [key]
    assert listing() == []
