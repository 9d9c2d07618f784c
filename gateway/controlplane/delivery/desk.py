"""Takes in sampled answers: predictions and comparisons to the rollouts, differences to the store, truth to both."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from gateway.controlplane.delivery.digest import Digest, Lens, digest
from gateway.controlplane.delivery.feed import Feed
from gateway.controlplane.delivery.feedback import Joined, JoinWindow, Prediction
from gateway.controlplane.delivery.rollout_store import Diff
from gateway.core.evidence_counts import ArmCounts
from gateway.telemetry.logs import logger
from gateway.telemetry.records import Sample, Samples

_MAX_BATCHES = 64
_MAX_DIFFS = 200
_log = logger("delivery")


class Desk:
    """Decodes samples in a thread of its own, so that a large tensor never holds up an abort.

    Args:
        lens: how a route's answers are looked at.
        feed: the feed of a route's running rollout.
        window: joins predictions and truths.
        clock: Unix time.

    Attributes:
        diffs: differences not stored yet, the newest ones.
        accuracy: correct and wrong answers by (route, variant), over all since the controller started.
        compared: comparisons by (route, variant of the copy, noise, agreed).
        counts: samples `taken`, `dropped`, `unreadable`; truths `joined`, `early`, `mismatch`.
    """

    def __init__(
        self,
        lens: Callable[[str], Lens],
        feed: Callable[[str], Feed | None],
        window: JoinWindow,
        clock: Callable[[], float],
    ) -> None:
        self._lens = lens
        self._feed = feed
        self._window = window
        self._clock = clock
        self._batches: asyncio.Queue[Samples] = asyncio.Queue(_MAX_BATCHES)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._complaints: dict[str, str] = {}
        self.diffs: deque[Diff] = deque(maxlen=_MAX_DIFFS)
        self.accuracy: dict[tuple[str, str], list[float]] = {}
        self.compared: Counter[tuple[str, str, bool, bool]] = Counter()
        self.counts: Counter[str] = Counter()

    def take(self, batch: Samples) -> None:
        """Queues a worker's samples; drops and counts them when the thread is far behind."""
        self.counts["dropped"] += batch.dropped
        try:
            self._batches.put_nowait(batch)
        except asyncio.QueueFull:
            self.counts["dropped"] += len(batch.samples)

    async def run(self) -> None:
        """Works the queue off until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._batches.get()
            work = [(sample, self._lens(sample.route)) for sample in batch.samples]
            for found in await loop.run_in_executor(self._thread, _digest_all, work):
                self._note(found)

    def observe(self, route: str, truths: Iterable[tuple[str, Sequence[str]]]) -> Counter[str]:
        """Takes ground truth as (request id, label of each row); returns how many were joined, early, mismatched."""
        result: Counter[str] = Counter(joined=0, early=0, mismatch=0)
        for request_id, labels in truths:
            joined = self._window.observed(route, request_id, tuple(labels), self._clock())
            if isinstance(joined, str):
                result[joined] += 1
            else:
                result["joined"] += 1
                self._credit(joined)
        self.counts += result
        return result

    def _note(self, found: Digest) -> None:
        sample = found.sample
        self.counts["taken"] += 1
        if found.problem:
            self.counts["unreadable"] += 1
            if self._complaints.get(sample.route) != found.problem:  # once, not for every answer
                self._complaints[sample.route] = found.problem
                _log.warning("cannot read predictions", route=sample.route, reason=found.problem)
        feed = self._feed(sample.route)
        variant = sample.original.variant
        if feed is not None and found.bins is not None and not sample.pinned:
            feed.add(sample.epoch, variant, ArmCounts(predictions=found.bins))
            if sample.key:
                likeliest = max(found.bins, key=lambda k: found.bins[k] if found.bins else 0.0)
                feed.add_keys(sample.epoch, f"bin:{likeliest}", variant, (sample.key,))
        if found.comparison is not None:
            self._compare(found, feed)
        if found.labels:
            prediction = Prediction(
                route=sample.route,
                variant=variant,
                epoch=sample.epoch,
                pinned=sample.pinned,
                key=sample.key,
                labels=found.labels,
            )
            joined = self._window.predicted(sample.request_id, prediction, self._clock())
            if joined is not None:
                self._credit(joined)

    def _compare(self, found: Digest, feed: Feed | None) -> None:
        sample, comparison = found.sample, found.comparison
        assert comparison is not None
        assert sample.copy is not None
        self.compared[sample.route, sample.copy.variant, sample.noise, comparison.agree] += 1
        if feed is not None:
            feed.add_comparison(sample.epoch, sample.original.variant, noise=sample.noise, agree=comparison.agree)
        if not comparison.agree:
            self.diffs.append(
                Diff(
                    route=sample.route,
                    at=self._clock(),
                    request_id=sample.request_id,
                    original=sample.original.variant,
                    copy=sample.copy.variant,
                    noise=sample.noise,
                    reason=comparison.reason,
                    output=comparison.output,
                    index=comparison.index,
                    original_value=comparison.original,
                    copy_value=comparison.candidate,
                    deviation=comparison.deviation,
                    differing=comparison.differing,
                )
            )

    def _credit(self, joined: Joined) -> None:
        prediction = joined.prediction
        sums = self.accuracy.setdefault((prediction.route, prediction.variant), [0.0, 0.0])
        sums[0] += joined.correct
        sums[1] += joined.wrong
        feed = self._feed(prediction.route)
        if feed is None or prediction.pinned:
            return
        counts = ArmCounts(feedback_correct=joined.correct, feedback_wrong=joined.wrong)
        feed.add(prediction.epoch, prediction.variant, counts)
        if prediction.key:
            check = "wrong" if joined.wrong > joined.correct else "correct"
            feed.add_keys(prediction.epoch, check, prediction.variant, (prediction.key,))


def _digest_all(work: Sequence[tuple[Sample, Lens]]) -> list[Digest]:
    return [digest(sample, lens) for sample, lens in work]
