"""Load on a real Triton, directly and through the gateway."""

from collections import Counter
from pathlib import Path

import pytest

from gateway.localtriton.server import LocalTriton
from loadtest import triton_stats
from loadtest.errors import UnreachableError
from loadtest.execute import Options, execute
from loadtest.locust_process import Workers
from loadtest.plan import Arm
from loadtest.results import Result
from loadtest.scenario import changed, resized
from loadtest.scenario_file import load_scenario, parse_scenario
from tests.triton.gateway import route, serving


def drive(name: str, *arms: Arm, users: float = 4, seconds: float = 3, **options: object) -> Result:
    """A built-in scenario in short, judged by its error rate alone: the machine of a test proves no latency."""
    scenario = changed(resized(load_scenario(name), peak=users, duration_s=seconds), warmup_s=1.0)
    scenario = changed(scenario, objectives=[{"metric": "error_rate", "below": 0.01}])
    return execute(scenario, Options(arms=list(arms), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["digits-json", "digits-batches", "digits-sticky"])
def test_digits_on_triton(name: str, digits_triton: LocalTriton) -> None:
    """Every form of the digits scenarios is accepted by a real Triton without an error, and its batches are counted."""
    result = drive(name, Arm("triton", digits_triton.http_url))
    whole = result.groups[0]
    assert whole.errors == 0
    assert whole.requests > 100
    assert result.verdict in {"pass", "inconclusive"}
    assert result.batch_sizes is not None
    sent = sum(sum(c.latency.values()) for c in result.cells)
    items = sum(c.items for c in result.cells)
    # The run is the only client of this server.
    assert result.batch_sizes.requests["digits:2"] == sent
    formed = result.batch_sizes.executions["digits:2"]
    assert sum(size * count for size, count in formed.items()) == items
    over_time = Counter[int]()
    for moment in result.batch_sizes.series:
        over_time.update(moment.executions.get("digits:2", {}))
    assert over_time == Counter(formed)
    assert len(result.batch_sizes.series) >= 3


def test_open_arrivals_on_triton_with_two_processes(digits_triton: LocalTriton) -> None:
    """Open arrivals of a mix of encodings reach Triton at the rate asked for, from two Locust processes."""
    result = drive(
        "digits-open", Arm("triton", digits_triton.http_url), users=200, seconds=4, workers=Workers(processes=2)
    )
    assert result.groups[0].errors == 0
    assert {g.where for g in result.groups} >= {"arm=triton,request=digit-json", "arm=triton,request=digit-binary"}
    assert result.offered_per_s == {"triton": pytest.approx(200)}
    assert result.groups[0].rate_per_s == pytest.approx(200, rel=0.15)


def test_gateway_against_triton_in_one_run(digits_triton: LocalTriton, tmp_path: Path) -> None:
    """The same load through the gateway and directly, in turns: no errors, variants told apart, shares as routed."""
    routes = [route("digits", "digits", 70, 30)]
    with serving(tmp_path, [digits_triton.http_url], routes, workers=1) as gateway:
        arms = [Arm("gateway", gateway.url), Arm("direct", digits_triton.http_url)]
        result = drive("digits-binary", *arms, seconds=10, arm_slice_s=0.5, stats_url=digits_triton.http_url)
    assert [g.errors for g in result.groups if "," not in g.where] == [0, 0]
    rates = {g.where: g.requests for g in result.groups}
    first, second = rates["arm=gateway,variant=v1"], rates["arm=gateway,variant=v2"]
    share, n = second / (first + second), first + second
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / n) ** 0.5
    assert result.comparison is not None
    assert (result.comparison.a, result.comparison.b) == ("gateway", "direct")
    assert result.comparison.lines[0].ratio is not None


SEQUENCES = """\
name: sequences
shape: {{kind: steady, level: 3, duration_s: 4}}
warmup_s: 0
requests:
  - name: chain
    model: {model}
    input: synthetic
    tensors: [{{name: VALUE, datatype: INT32, shape: [1], low: 1, high: 9}}]
    sequence: {{length: 4, ids: {ids}}}
objectives: [{{metric: error_rate, below: 0.05}}]
"""


@pytest.mark.parametrize(("model", "ids"), [("accumulate", "numeric"), ("accumulate_text", "string")])
def test_sequences_on_a_stateful_model(model: str, ids: str, triton: LocalTriton) -> None:
    """A model that refuses anything but proper sequences accepts ours, with numeric and with string ids."""
    scenario = parse_scenario(SEQUENCES.format(model=model, ids=ids), source="sequences")
    result = execute(scenario, Options(arms=[Arm("triton", triton.http_url)]))
    assert result.groups[0].errors == 0
    assert result.groups[0].requests > 20


MIX = """\
name: mix
shape: {kind: steady, level: 4, duration_s: 5}
warmup_s: 0
requests:
  - name: halves
    model: half
    input: synthetic
    batch: 4
    weight: 3
    tensors: [{name: X, datatype: FP16, shape: [4]}]
  - name: sums
    model: add_sub
    input: synthetic
    encoding: json
    tensors: [{name: INPUT0, datatype: FP32, shape: [16]}, {name: INPUT1, datatype: FP32, shape: [16]}]
objectives:
  - {metric: error_rate, below: 0.05}
  - {metric: latency_p50_ms, below: 5000, where: request=sums}
"""


def test_several_models_in_one_run(triton: LocalTriton) -> None:
    """Two models with their own batches and encodings share a run by weight, and each has its own figures."""
    result = execute(parse_scenario(MIX, source="mix"), Options(arms=[Arm("triton", triton.http_url)]))
    groups = {g.where: g for g in result.groups}
    whole, halves, sums = (groups[f"arm=triton{part}"] for part in ("", ",request=halves", ",request=sums"))
    assert whole.errors == 0
    assert halves.requests + sums.requests == whole.requests > 100
    assert abs(halves.requests / whole.requests - 0.75) < 5 * (0.75 * 0.25 / whole.requests) ** 0.5
    assert halves.items_per_s == pytest.approx(4 * halves.rate_per_s)
    assert sums.items_per_s == pytest.approx(sums.rate_per_s)
    assert result.verdict == "pass"
    assert result.batch_sizes is not None
    models = {name.partition(":")[0] for name, sizes in result.batch_sizes.executions.items() if sizes}
    assert models == {"half", "add_sub"}


@pytest.mark.parametrize(("keys", "variants"), [(1, 1), (1000, 2)])
def test_sticky_keys_reach_the_gateway(keys: int, variants: int, digits_triton: LocalTriton, tmp_path: Path) -> None:
    """All requests of one key get one variant of two that are equally likely; those of many keys get both."""
    routes = [route("digits", "digits", 50, 50, sticky_header="x-sticky-key")]
    scenario = changed(resized(load_scenario("digits-sticky"), peak=2, duration_s=3), warmup_s=0.0)
    (request,) = scenario.model_dump()["requests"]
    scenario = changed(scenario, requests=[{**request, "sticky": {"header": "x-sticky-key", "keys": keys}}])
    with serving(tmp_path, [digits_triton.http_url], routes, workers=2) as gateway:
        result = execute(scenario, Options(arms=[Arm("gateway", gateway.url)]))
    assert result.groups[0].errors == 0
    assert result.groups[0].requests > 50
    assert len({cell.variant for cell in result.cells if cell.latency}) == variants


def test_half_precision_tensors_on_triton(triton: LocalTriton) -> None:
    """Synthetic FP16 tensors reach a model that takes them."""
    text = """
name: half
shape: {kind: steady, level: 2, duration_s: 3}
requests:
  - name: half
    model: half
    input: synthetic
    batch: 4
    tensors: [{name: X, datatype: FP16, shape: [4]}]
"""
    result = execute(parse_scenario(text, source="half"), Options(arms=[Arm("triton", triton.http_url)]))
    assert result.groups[0].errors == 0
    assert result.groups[0].items_per_s == pytest.approx(4 * result.groups[0].rate_per_s)


def test_a_model_that_is_not_there_is_named(digits_triton: LocalTriton) -> None:
    """A scenario for a model that the server does not have starts nothing and says which."""
    with pytest.raises(UnreachableError, match="model minilm is not ready"):
        drive("sentences", Arm("triton", digits_triton.http_url))


def test_statistics_that_a_server_does_not_give_are_said_to_be_missing(digits_triton: LocalTriton) -> None:
    """Unknown statistics are an error with a reason, for the run to note."""
    with pytest.raises(ValueError, match="no statistics of nothing"):
        triton_stats.snapshot(digits_triton.http_url, ["nothing"])
