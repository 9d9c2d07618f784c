"""config.pbtxt in the repository: which versions are served, and which were before.

The history rides as comments in the same file, so that a policy and its past change in one rename, survive any copy of
the repository, and change nothing that Triton compares (another file beside config.pbtxt would reload every version).
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

from export.errors import ExportError
from export.serving import proto

_HISTORY = "# sluice-served-before: "
_HEADER = "# Written by sluice export. Versions are added and taken back with `sluice export promote` and `rollback`.\n"
_KEPT = 16


@dataclass(frozen=True, slots=True)
class Policy:
    """Versions served now, and what was served before each change, oldest first."""

    served: tuple[int, ...]
    before: tuple[tuple[int, ...], ...] = ()

    def changed(self, served: tuple[int, ...]) -> Policy:
        """The policy after serving `served` instead; the same one when nothing changes."""
        if served == self.served:
            return self
        return Policy(served, (*self.before, self.served)[-_KEPT:])

    def with_version(self, version: int, *, alone: bool = False) -> Policy:
        """The policy after promoting a version, beside the others or instead of them."""
        return self.changed((version,) if alone else tuple(sorted({*self.served, version})))

    def without(self, version: int) -> Policy:
        """The policy as if `version` had never been served, whatever came before or after it."""
        *earlier, served = [tuple(v for v in once if v != version) for once in (*self.before, self.served)]
        walked = [once for once, _ in itertools.groupby(filter(None, [*earlier, served]))]
        return Policy(served, tuple(walked[:-1] if served else walked))

    def rolled_back(self) -> Policy:
        """The policy before the last change; ExportError when there is none."""
        if not self.before:
            raise ExportError("no earlier policy is recorded, so there is nothing to roll back to")
        return Policy(self.before[-1], self.before[:-1])


def read(text: str, where: str) -> tuple[Any, Policy]:
    """The configuration without its version policy, and the policy; ExportError when it is not `specific`."""
    message = proto.from_text(text, where)
    if message.version_policy.WhichOneof("policy_choice") != "specific":
        raise ExportError(
            f"{where}: its version_policy is not `specific`, so publishing into it would move traffic by itself"
        )
    before: tuple[tuple[int, ...], ...] = ()
    for line in text.splitlines():
        if line.startswith(_HISTORY):
            before = tuple(tuple(int(v) for v in versions) for versions in json.loads(line.removeprefix(_HISTORY)))
    policy = Policy(tuple(message.version_policy.specific.versions), before)
    message.ClearField("version_policy")
    return message, policy


def write(message: Any, policy: Policy) -> str:
    """The text of config.pbtxt."""
    full = type(message)()
    full.CopyFrom(message)
    full.version_policy.specific.versions.extend(policy.served)
    history = f"{_HISTORY}{json.dumps(policy.before)}\n" if policy.before else ""
    return _HEADER + history + proto.to_text(full)


def differences(old: Any, new: Any) -> list[str]:
    """Top-level fields in which two configurations differ, the version policy apart."""
    names = sorted({field.name for field in old.DESCRIPTOR.fields} - {"version_policy"})
    return [name for name in names if getattr(old, name) != getattr(new, name)]
