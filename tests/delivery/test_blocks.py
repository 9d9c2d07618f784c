"""Evidence comes in whole blocks: nothing that wakes a rollout cuts one short, and its end keeps what it rests on."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.controlplane.delivery.run import Run
from gateway.core.rollout import Command
from gateway.core.rollout_policy import ErrorsGate, Gates, RolloutPolicy, Step
from tests.delivery.plane import Plane, plane
from tests.delivery.triton_double import TritonDouble

BLOCK_S = 1.0
GATES = Gates(errors=ErrorsGate(), latency=None, guardrails=None)
STANDING = RolloutPolicy(strategy="champion_challenger", share=50, gates=GATES)
CLIMBING = RolloutPolicy(
    steps=(Step(weight=30, min_time_s=0, slack=50), Step(weight=50, min_time_s=0, slack=50)), gates=GATES
)


@pytest.fixture
def double() -> Iterator[TritonDouble]:
    """A backend that has version 1."""
    found = TritonDouble(ready={("m", "1")})
    yield found
    found.close()


async def _stumble(at: Plane, run: Run, rng: random.Random) -> list[tuple[int, float, float]]:
    """Time goes on in small uneven steps; reports and commands wake the rollout. (Epoch, begin, end) of each block."""

    def taken() -> tuple[int, int]:
        return run.record.evidence.epoch, run.record.evidence.seconds

    blocks, began, counted, commands = [], at.clock.now, taken(), 0
    for _ in range(150):
        at.clock.now += rng.uniform(0.0, 0.3)
        epoch = run.record.state.epoch
        drawn = [rng.random() < run.record.shares[epoch].of_candidate for _ in range(rng.randrange(40))]
        at.count(run, "new", sum(drawn))
        at.count(run, "old", len(drawn) - sum(drawn))
        asked = None
        if rng.random() < 0.3 and run.record.state.phase.value in {"judging", "held", "paused"}:
            commands += 1
            kind = "resume" if run.record.state.phase.value == "paused" else "pause"
            asked = run.ask(Command(id=str(commands), kind=kind, by="ann"))  # type: ignore[arg-type]
        await run.look()
        if taken() != counted:
            counted = taken()
            blocks.append((epoch, began, at.clock.now))
            began = at.clock.now
        if asked is not None:
            assert (await asked).event in {"pause", "resume"}
        if run.record.state.epoch != epoch:
            await at.look_until(run, lambda: run.record.state.phase.value in {"judging", "promoting", "window"})
            began = at.clock.now
        if run.record.state.phase.value in {"promoting", "window"}:
            break
    assert run.record.policy is CLIMBING or commands > 20
    return blocks


@pytest.mark.parametrize("policy", [STANDING, CLIMBING], ids=["standing", "climbing"])
@pytest.mark.parametrize("seed", range(3))
def test_no_block_is_shorter_whatever_wakes_the_rollout(
    tmp_path: Path, double: TritonDouble, policy: RolloutPolicy, seed: int
) -> None:
    """Reports several times a second and commands at any time: each block is whole, and none is waited for long."""

    async def check() -> None:
        async with plane(tmp_path, double.url, block_s=BLOCK_S) as at:
            run = await at.begin(policy)
            blocks = await _stumble(at, run, random.Random(seed))
            assert {epoch for epoch, _, _ in blocks} == ({1} if policy is STANDING else {1, 2})
            assert len(blocks) > (15 if policy is STANDING else 1)
            for _, began, ended in blocks:
                assert BLOCK_S <= ended - began < BLOCK_S + 0.31

    asyncio.run(check())


def test_a_block_holds_all_that_came_in_during_it(tmp_path: Path, double: TritonDouble) -> None:
    """Errors of one second count once, although five reports and a command came in between."""

    async def check() -> None:
        async with plane(tmp_path, double.url, block_s=BLOCK_S) as at:
            run = await at.begin(STANDING)
            for i in range(5):
                at.clock.now += 0.19
                at.count(run, "new", 10, bad=2)
                at.count(run, "old", 10)
                asked = run.ask(Command(id=str(i), kind="pause" if i % 2 == 0 else "resume", by="ann"))
                await run.look()
                await asked
                assert run.record.evidence.candidate.assigned == 0
            at.clock.now += 0.1
            await run.look()
            assert (run.record.evidence.candidate.assigned, run.record.evidence.seconds) == (50, 1)
            (tally,) = run.record.evidence.checks["server"].tallies
            assert (tally.raw_x, round(tally.x, 6)) == (10, 1.0)

    asyncio.run(check())


def test_the_end_keeps_what_it_rests_on(tmp_path: Path, double: TritonDouble) -> None:
    """After an abort the counts of the judged stage stay to be read, whatever still comes in."""

    async def check() -> None:
        async with plane(tmp_path, double.url, block_s=BLOCK_S) as at:
            run = await at.begin(STANDING)
            for _ in range(30):
                at.clock.now += BLOCK_S
                at.count(run, "new", 10, bad=10)
                at.count(run, "old", 10)
                await run.look()
                if run.record.state.phase.value != "judging":
                    break
            found = run.record.evidence.candidate
            assert found.upstream_error == found.assigned > 0
            at.count(run, "old", 100)
            at.clock.now += BLOCK_S
            await at.look_until(run, lambda: run.record.state.final)
            assert run.record.state.phase.value == "aborted"
            stored = at.delivery.rollouts.store.get(run.record.id)
            assert stored is not None
            assert stored.evidence.candidate == run.record.evidence.candidate == found
            last = at.delivery.rollouts.store.last_verdict(run.record.id)
            assert last is not None
            assert last.outcome.value == "fail"

    asyncio.run(check())
