"""Promotion, rollback, garbage collection and the check against manifests."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from export.errors import ExportError, UsageError
from export.publish import manifest as manifests
from export.publish import policy as policies
from export.publish.repository import MANIFEST, Repository
from export.serving import address

LOCK_TIMEOUT_S = 30.0


class Row(msgspec.Struct, frozen=True):
    """One model of a repository; `before` are the policies that can be rolled back to, oldest first."""

    name: str
    versions: list[int]
    served: list[int]
    before: list[list[int]]


class Finding(msgspec.Struct, frozen=True):
    """What `check` says of a version (or, with None, of the model's configuration)."""

    name: str
    version: int | None
    problems: list[str]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the served versions; `verified` is the Triton that confirmed it."""

    name: str
    before: list[int]
    after: list[int]
    dry_run: bool
    verified: str | None = None


def overview(repository: Repository) -> list[Row]:
    """All models."""
    rows = []
    for name in repository.models():
        try:
            _, policy = policies.read(repository.config(name) or "", f"{name}/config.pbtxt")
        except ExportError:
            policy = policies.Policy(())
        rows.append(Row(name, repository.versions(name), list(policy.served), [list(b) for b in policy.before]))
    return rows


def check(repository: Repository, only: str | None) -> list[Finding]:
    """Every configuration parses and serves versions that exist; every file has the hash it was published with."""
    names = [only] if only else repository.models()
    findings = []
    for name in names:
        text = repository.config(name)
        if text is None:
            findings.append(Finding(name, None, ["no such model, or its config.pbtxt is gone"]))
            continue
        problems = []
        versions = repository.versions(name)
        try:
            _, policy = policies.read(text, f"{name}/config.pbtxt")
            problems = [f"version {v} is served but not there" for v in policy.served if v not in versions]
        except ExportError as error:
            problems = [str(error)]
        findings.append(Finding(name, None, problems))
        findings += [Finding(name, version, _version_problems(repository, name, version)) for version in versions]
    return findings


def _version_problems(repository: Repository, name: str, version: int) -> list[str]:
    try:
        record = manifests.decode(repository.read(name, version, MANIFEST), MANIFEST)
    except FileNotFoundError:
        return ["no manifest.json: this version was not published by sluice"]
    except ExportError as error:
        return [str(error)]
    problems = []
    if (record.name, record.version) != (name, version):
        problems.append(f"its manifest is that of {record.name} version {record.version}")
    present = set(repository.files(name, version)) - {MANIFEST}
    problems += [f"{path} is gone" for path in sorted(set(record.files) - present)]
    problems += [f"{path} was not published" for path in sorted(present - set(record.files))]
    for path in sorted(present & set(record.files)):
        digest = hashlib.sha256(repository.read(name, version, path)).hexdigest()
        if digest != record.files[path]:
            problems.append(f"{path} has sha256 {digest[:12]}..., published was {record.files[path][:12]}...")
    return problems


def promote(
    repository: Repository,
    name: str,
    version: int,
    *,
    alone: bool = False,
    triton: str | None = None,
    dry_run: bool = False,
) -> Change:
    """Serve `version`, beside what is served or alone. A version that fails its own manifest is refused.

    With `triton`, the address of one that serves this repository (`URL` or `URL,grpc_port=N`), it has to load and to
    answer, or nothing changes.
    """

    def decide(policy: policies.Policy) -> policies.Policy:
        if version not in repository.versions(name):
            raise UsageError(f"{name} has no version {version}; there are {repository.versions(name)}")
        if problems := _version_problems(repository, name, version):
            raise ExportError(f"{name} version {version} is not what was published: {problems[0]}")
        return policy.with_version(version, alone=alone)

    return _change(repository, name, decide, triton=triton, dry_run=dry_run)


def rollback(repository: Repository, name: str, *, triton: str | None = None, dry_run: bool = False) -> Change:
    """Serve what was served before the last change; `triton` as for `promote`."""

    def decide(policy: policies.Policy) -> policies.Policy:
        earlier = policy.rolled_back()
        gone = set(earlier.served) - set(repository.versions(name))
        if gone:
            raise ExportError(f"cannot roll {name} back: version {min(gone)} has been deleted")
        return earlier

    return _change(repository, name, decide, triton=triton, dry_run=dry_run)


def _change(
    repository: Repository,
    name: str,
    decide: Callable[[policies.Policy], policies.Policy],
    *,
    triton: str | None,
    dry_run: bool,
) -> Change:
    if triton is not None:
        address.parse(triton)  # before anything is written
    with repository.lock(name, LOCK_TIMEOUT_S):
        text = repository.config(name)
        if text is None:
            raise UsageError(
                f"{repository.url} has no model {name!r}; there are {', '.join(repository.models()) or 'none'}"
            )
        message, policy = policies.read(text, f"{name}/config.pbtxt")
        changed = decide(policy)
        if changed != policy and not dry_run:
            repository.write_config(name, policies.write(message, changed))
        if triton is not None and not dry_run:
            _verify(repository, name, triton, policy, changed, text)
        return Change(
            name=name,
            before=list(policy.served),
            after=list(changed.served),
            dry_run=dry_run,
            verified=None if dry_run else triton,
        )


def _verify(
    repository: Repository, name: str, where: str, policy: policies.Policy, changed: policies.Policy, before: str
) -> None:
    """Have the Triton at `where` serve the changed policy, or write the configuration `before` again."""
    from export.serving import confirm  # noqa: PLC0415  (keeps --help quick)
    from export.serving.client import Triton  # noqa: PLC0415

    new = set(changed.served) - set(policy.served) or set(changed.served)
    asked = {version: manifests.recorded(repository, name, version) for version in sorted(new)}
    with Triton(where) as triton:
        try:
            confirm.serves(triton, name, changed.served, asked)
        except ExportError as error:
            if changed == policy:
                raise
            repository.write_config(name, before)
            again = ""
            try:
                triton.load(name)
            except ExportError as second:
                again = f", but {second}"
            raise ExportError(f"{error}; the earlier policy was restored{again}") from error


def collect(repository: Repository, only: str | None, *, keep: int, dry_run: bool) -> list[str]:
    """Remove versions neither served, nor in the policy's history, nor among the newest `keep`; then leftovers."""
    removed = []
    for name in [only] if only else repository.models():
        with repository.lock(name, LOCK_TIMEOUT_S):
            text = repository.config(name)
            if text is None:
                raise UsageError(f"{repository.url} has no model {name!r}")
            _, policy = policies.read(text, f"{name}/config.pbtxt")
            versions = repository.versions(name)
            needed = {
                *policy.served,
                *(v for served in policy.before for v in served),
                *(versions[-keep:] if keep else []),
            }
            for version in sorted(set(versions) - needed):
                removed.append(f"{name}/{version}")
                if not dry_run:
                    repository.remove_version(name, version)
            for leftover in sorted((repository.side / "staging").glob(f"{name}-*")):
                if _abandoned(leftover):
                    removed.append(f"staging/{leftover.name}")
                    if not dry_run:
                        shutil.rmtree(leftover, ignore_errors=True)
    return removed


def _abandoned(staged: Path) -> bool:
    """Whether the process whose number the staging directory carries is gone."""
    owner = staged.name.split("-")[-2]
    return not Path("/proc", owner).exists()
