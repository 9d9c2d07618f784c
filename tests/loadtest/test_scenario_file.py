"""Scenario and objectives files: what is accepted, and how clearly the rest is refused."""

from pathlib import Path

import pytest

from loadtest import scenario_file
from loadtest.errors import FileError
from loadtest.objectives import Objective
from loadtest.scenario import resized

GOOD = """\
name: mine
arrivals: open
shape: {kind: spike, base: 100, peak: 400, at_s: 4, spike_s: 2, duration_s: 10}
requests:
  - name: digit
    model: digits
    input: digits
    encoding: json
    sticky: {header: x-user, keys: 10}
    sequence: {length: 3, ids: string}
  - name: picture
    model: resnet
    input: synthetic
    tensors: [{name: image, datatype: FP16, shape: [3, 224, 224]}]
objectives:
  - {metric: latency_p99_ms, below: 50, where: "request=digit,variant=v2"}
"""
BAD = [
    ("input: digits", "inputs: digits", "line 7: requests.0.inputs: unknown key; did you mean `input`?"),
    ("at_s", "at", "line 3: shape.at: unknown key; did you mean `at_s`?"),
    ("kind: spike", "kind: spyke", "line 3: shape: Input tag 'spyke'"),
    ("peak: 400", "peak: -4", "line 3: shape.peak: Input should be greater than or equal to 0"),
    ("at_s: 4", "at_s: 9", "line 3: shape: the spike must end within the run"),
    ("keys: 10", "keys: 0", "line 9: requests.0.sticky.keys: Input should be greater than or equal to 1"),
    ("length: 3", "lenght: 3", "line 10: requests.0.sequence.lenght: unknown key; did you mean `length`?"),
    ("name: picture", "name: digit", "line 1: the file: each request needs its own name"),
    ("below: 50", "above: 50", "line 16: objectives.0: rates are bounded by `above`"),
    ("variant=v2", "version=2", "line 16: objectives.0.where: selector `request=digit,version=2`"),
    ("    tensors:", "    batch: 2 #", "line 11: requests.1: `tensors` are declared exactly when"),
    ("requests:", "requests: [", "not valid YAML"),
    ("arrivals: open", "arrivals: open\nwarmup_s: 10", "warmup_s 10 leaves nothing of the 10 s"),
]


def test_every_built_in_scenario_is_valid() -> None:
    """Each file that comes with Sluice loads, is named as its file and says what it is for."""
    names = list(scenario_file.built_in())
    assert {"digits-json", "digits-binary", "sentences", "sentences-batch", "soak", "spike", "2x-peak"} <= set(names)
    for name in names:
        scenario = scenario_file.load_scenario(name)
        assert scenario.name == name
        assert scenario.description


def test_a_full_file_is_read() -> None:
    """Every part of a scenario file reaches the scenario."""
    scenario = scenario_file.parse_scenario(GOOD, source="mine.yaml")
    assert scenario.shape.curve().peak == 400
    assert [r.name for r in scenario.requests] == ["digit", "picture"]
    assert scenario.requests[0].sequence is not None
    assert scenario.requests[1].tensors[0].shape == (3, 224, 224)
    assert scenario.objectives == (Objective(metric="latency_p99_ms", below=50, where="request=digit,variant=v2"),)


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_mistakes_are_named(old: str, new: str, message: str) -> None:
    """A mistake gives one line with the file, the line, the key and, for a misspelt one, the nearest valid key."""
    assert old in GOOD
    with pytest.raises(FileError) as caught:
        scenario_file.parse_scenario(GOOD.replace(old, new, 1), source="mine.yaml")
    assert str(caught.value).startswith("mine.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_scenario_names_the_nearest() -> None:
    """A misspelt name of a built-in scenario gets a suggestion."""
    with pytest.raises(FileError, match="did you mean `digits-json`"):
        scenario_file.load_scenario("digit-json")


def test_objectives_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    """A file with only objectives replaces those of a scenario; a missing file is named."""
    path = tmp_path / "slo.yaml"
    path.write_text("objectives:\n  - {metric: error_rate, below: 0.01}\n")
    assert list(scenario_file.load_objectives(path)) == [Objective(metric="error_rate", below=0.01)]
    with pytest.raises(FileError, match="No such file"):
        scenario_file.load_objectives(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["digits-json", "ramp", "step", "spike", "soak", "2x-peak"])
def test_a_scenario_can_be_stretched(name: str) -> None:
    """Another peak and length keep the form of the shape."""
    before = scenario_file.load_scenario(name)
    after = resized(before, peak=77, duration_s=30)
    old, new = before.shape.curve(), after.shape.curve()
    assert new.peak == pytest.approx(77)
    assert new.duration_s == pytest.approx(30)
    scale = old.scaled(level=77 / old.peak, time=30 / old.duration_s)
    assert [x for p in new.points for x in p] == pytest.approx([x for p in scale.points for x in p])
