"""Publishing to object storage, against a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from export.errors import LockedError
from export.publish import upkeep
from export.publish.open import open_repository
from tests.export.conftest import Exporter

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An empty repository on an S3 server of its own."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3").create_bucket(Bucket="models")
    yield "s3://models/repository"
    server.stop()


def _keys() -> list[str]:
    listing = boto3.client("s3").list_objects_v2(Bucket="models")
    return sorted(entry["Key"] for entry in listing.get("Contents", []))


def test_versions_policy_and_check_on_s3(bucket: str, export_into: Exporter) -> None:
    """Publish, promote, roll back, check and collect leave the same objects as a directory would hold files."""
    export_into(bucket, "tests.export.broken:healthy", "live")
    assert _keys() == [f"repository/live/{path}" for path in ("1/manifest.json", "1/model.onnx", "config.pbtxt")]
    export_into(bucket, "tests.export.broken:other", "live")
    repository = open_repository(bucket)
    assert upkeep.overview(repository)[0].served == [1]
    assert upkeep.promote(repository, "live", 2).after == [1, 2]
    assert upkeep.rollback(repository, "live").after == [1]
    assert not any(finding.problems for finding in upkeep.check(repository, None))
    assert upkeep.collect(repository, "live", keep=0, dry_run=False) == ["live/2"]
    assert repository.versions("live") == [1]


def test_lease_keeps_a_second_publisher_out(bucket: str) -> None:
    """While one holds the lease another gives up in time, and an expired lease is taken over."""
    from export.publish.remote import FsspecRepository

    first, second = FsspecRepository(bucket), FsspecRepository(bucket, now=lambda: 1e12)
    with first.lock("live", 1.0):
        with pytest.raises(LockedError, match="is held by process"), FsspecRepository(bucket).lock("live", 0.1):
            raise AssertionError("two publishers")
        with second.lock("live", 1.0):
            assert any("locks/live" in key for key in _keys())
    assert not [key for key in _keys() if "locks" in key]
