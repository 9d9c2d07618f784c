"""Turns what workers report and what samples show into one rollout's blocks of evidence, each count exactly once."""

from collections.abc import Iterable, Mapping

from gateway.controlplane.delivery.record import BASELINE_SUFFIX, Mark, Record, Share, WorkerMarks
from gateway.core.evidence_counts import NOTHING, ArmCounts, Block
from gateway.core.evidence_keys import KeyLedger
from gateway.telemetry.records import Outcome, VariantCounts, WorkerReport

_NOISE = "\0noise"
_PER_SLOT = 3
Reported = tuple[str, str, tuple[int, ...]]


def arm_counts(row: VariantCounts) -> ArmCounts:
    """A worker's row as the counts of an arm."""
    o = row.outcomes
    return ArmCounts(
        assigned=row.assigned,
        ok=o[Outcome.OK],
        client_error=o[Outcome.CLIENT_ERROR],
        upstream_error=o[Outcome.UPSTREAM_ERROR],
        timeout=o[Outcome.TIMEOUT],
        connect_error=o[Outcome.CONNECT_ERROR],
        shed=o[Outcome.SHED],
        cancelled=o[Outcome.CANCELLED],
        latency={bucket: count for bucket, count in enumerate(row.latency) if count},
    )


class Feed:
    """Collects between two looks. What a crash loses of it is reported again, except samples and new keys.

    Args:
        record: the stored rollout; its marks say what is evidence already.
        keys: hashes per check that were counted before a crash.
    """

    def __init__(self, record: Record, keys: Iterable[tuple[str, tuple[int, ...]]] = ()) -> None:
        self._route = record.route
        self._stable = record.state.stable
        self._candidate = record.state.candidate
        self._baseline = self._stable + BASELINE_SUFFIX
        self._marks: dict[str, tuple[int, dict[tuple[str, int], ArmCounts]]] = {
            incarnation: (worker.worker, {(m.variant, m.epoch): m.counts for m in worker.marks})
            for incarnation, worker in record.marks.items()
        }
        self._pending: dict[int, dict[str, ArmCounts]] = {}
        self._reported: dict[int, list[Reported]] = {}
        self._ledger = KeyLedger()
        self._ledger.admit([(check, "candidate", hashes) for check, hashes in keys])

    def report(self, report: WorkerReport, known: Mapping[int, object]) -> None:
        """Takes a worker's cumulative counts; rows of epochs that the rollout does not know are not its own."""
        if report.incarnation not in self._marks:
            # A process that is being replaced reports beside its successor; the ones before are dead.
            dead = [incarnation for incarnation, (slot, _) in self._marks.items() if slot == report.worker]
            for incarnation in dead[: 1 - _PER_SLOT]:
                del self._marks[incarnation]
        _, marks = self._marks.setdefault(report.incarnation, (report.worker, {}))
        for row in report.variants:
            if row.route != self._route or row.pinned or row.epoch not in known:
                continue
            now = arm_counts(row)
            before = marks.get((row.variant, row.epoch), NOTHING)
            if now != before:
                marks[row.variant, row.epoch] = now
                self.add(row.epoch, row.variant, now.minus(before))
        for key in [key for key in marks if key[1] not in known]:
            del marks[key]
        for new in report.new_keys:
            if new.route == self._route and new.epoch in known:
                self.add_keys(new.epoch, new.check, new.variant, new.hashes)

    def add(self, epoch: int, variant: str, counts: ArmCounts) -> None:
        """Adds counts of one variant under one epoch."""
        arms = self._pending.setdefault(epoch, {})
        arms[variant] = arms.get(variant, NOTHING).plus(counts)

    def add_comparison(self, epoch: int, original: str, *, noise: bool, agree: bool) -> None:
        """Adds one compared copy: of the candidate, or of the noise arm.

        An original that the candidate itself served says nothing, with either kind of copy.
        """
        if original == self._candidate:
            return
        counts = ArmCounts(shadow_compared=1, shadow_disagreed=int(not agree))
        self.add(epoch, _NOISE if noise else self._candidate, counts)

    def add_keys(self, epoch: int, check: str, variant: str, hashes: Iterable[int]) -> None:
        """Adds sticky keys that may be new for a check."""
        self._reported.setdefault(epoch, []).append((check, variant, tuple(hashes)))

    def take(self, record: Record) -> tuple[list[Block], list[Reported]]:
        """The blocks since the last call, oldest epoch first, and the keys they admitted.

        The present epoch always gets a block, even an empty one: time without data is an observation too.
        """
        pending, self._pending = self._pending, {}
        reported, self._reported = self._reported, {}
        present = record.state.epoch
        epochs = sorted({*pending, *reported, *([present] if present in record.shares else [])} & set(record.shares))
        blocks = [self._block(record, epoch, pending.get(epoch, {}), reported.get(epoch, [])) for epoch in epochs]
        return blocks, [key for epoch in epochs for key in reported.get(epoch, [])]

    def marks(self) -> dict[str, WorkerMarks]:
        """What is evidence once the blocks taken so far are stored."""
        return {
            incarnation: WorkerMarks(slot, tuple(Mark(v, epoch, counts) for (v, epoch), counts in marks.items()))
            for incarnation, (slot, marks) in self._marks.items()
        }

    def _block(self, record: Record, epoch: int, arms: dict[str, ArmCounts], keys: list[Reported]) -> Block:
        share = record.shares[epoch]
        noise = arms.get(_NOISE, NOTHING)
        stable, baseline = arms.get(self._stable, NOTHING), arms.get(self._baseline, NOTHING)
        reference = baseline if share.baseline else stable
        old = stable.plus(baseline)
        return Block(
            epoch=epoch,
            share=share.of_candidate,
            candidate=arms.get(self._candidate, NOTHING),
            reference=reference.plus(noise),
            old=old.plus(noise),
            keys=self._ledger.admit(self._by_arm(keys, share)) if record.evidence.by_key else None,
        )

    def _by_arm(self, keys: list[Reported], share: Share) -> Iterable[Reported]:
        """Keys under their arm: the candidate, what it is compared with, or neither (beside an equal baseline arm)."""
        reference = self._baseline if share.baseline else self._stable
        arms = {self._candidate: "candidate", reference: "reference"}
        return ((check, arms.get(variant, ""), hashes) for check, variant, hashes in keys)
