"""The command line: exit codes, JSON, dry runs, and how little it imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export.cli import app
from tests.export.conftest import Exporter

runner = CliRunner()


def test_importing_the_commands_imports_no_torch() -> None:
    """The command line starts without torch, onnx and ONNX Runtime."""
    code = "import sys, export.cli; print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_spec_without_the_word_run(tmp_path: Path) -> None:
    """`sluice export SPEC` exports; as JSON it tells the version and each step; a refusal has the step's exit code."""
    arguments = ["--repo", str(tmp_path / "repo"), "--name", "live", "--serve-check", "off", "-o", "json"]
    done = runner.invoke(app, ["tests.export.broken:healthy", *arguments])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["version"] == 1
    assert [step["step"] for step in result["steps"]][:3] == ["preflight", "load", "export"]
    refused = runner.invoke(app, ["tests.export.broken:training", *arguments])
    assert refused.exit_code == 11
    assert "training mode" in refused.stderr
    assert "Traceback" not in refused.output


def test_refusal_leaves_a_script_that_refuses_again(tmp_path: Path, export_into: Exporter) -> None:
    """Beside the repository lie the worst samples, the model and a script that ends with the same exit code."""
    arguments = ["--repo", str(tmp_path / "repo"), "--name", "live", "--serve-check", "off"]
    assert runner.invoke(app, ["tests.export.broken:counting", *arguments]).exit_code == 16
    (kept,) = (tmp_path / ".repo.sluice" / "failures").iterdir()
    assert {"repro.py", "parity.worst.npz", "model.onnx", "cases.npz", "error.txt", "request.json"} <= {
        path.name for path in kept.iterdir()
    }
    assert subprocess.run([sys.executable, kept / "repro.py"], capture_output=True, check=False).returncode == 16


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["nothing", "--repo", "R", "--name", "n"], 2, "SPEC"),
        (["a.b:c", "--repo", "R", "--name", "bad name"], 2, "name"),
        (["a.b:c", "--repo", "R", "--name", "n", "--max-batch", "0"], 2, "max-batch"),
        (["check", "--repo", "missing"], 2, "no such model repository"),
        (["promote", "digits", "9", "--repo", "SAMPLES"], 2, "no version 9"),
        (["rollback", "nobody", "--repo", "SAMPLES"], 2, "no model"),
        (["inspect", "digits", "--version", "7", "--repo", "SAMPLES"], 2, "no manifest"),
    ],
)
def test_mistakes_get_one_line_and_their_code(
    samples: Path, tmp_path: Path, arguments: list[str], code: int, word: str
) -> None:
    """Wrong usage is told in one message without a traceback."""
    places = {"R": str(tmp_path / "repo"), "SAMPLES": str(samples)}
    done = runner.invoke(app, [places.get(argument, argument) for argument in arguments])
    assert done.exit_code == code
    assert word in " ".join(done.stderr.split())
    assert "Traceback" not in done.output


def test_reads_as_json_and_writes_with_dry_run(samples: Path) -> None:
    """list, check and inspect answer JSON; promote, rollback and gc with --dry-run change no byte."""
    before = {path: path.stat().st_mtime_ns for path in samples.rglob("*")}
    reads = (["list"], ["check"], ["inspect", "digits"])
    answers = [json.loads(runner.invoke(app, [*read, "--repo", str(samples), "-o", "json"]).stdout) for read in reads]
    assert answers[0][0]["served"] == [1, 2, 3]
    assert all(not finding["problems"] for finding in answers[1])
    assert answers[2]["reference"]["pixels"]["high"] == 16
    assert len(answers[2]["weights_sha256"]) == len(answers[2]["graph_sha256"]) == 64
    assert set(answers[2]["git"]) == {"commit", "dirty"}
    assert {"python", "torch", "onnx", "onnxruntime"} <= set(answers[2]["tools"])
    assert "cases" in answers[2]["seeds"]
    for write in (["promote", "digits", "1", "--alone"], ["rollback", "digits"], ["gc", "digits", "--keep", "0"]):
        done = runner.invoke(app, [*write, "--repo", str(samples), "--dry-run", "-o", "json"])
        assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in samples.rglob("*")} == before


@pytest.mark.parametrize("version", [1, 3])
def test_inspect_shows_people_what_json_tells_programs(samples: Path, version: int) -> None:
    """Name, version, precision, both hashes, and every observed error in a line of its check and output."""
    command = ["inspect", "digits", "--version", str(version), "--repo", str(samples)]
    record = json.loads(runner.invoke(app, [*command, "-o", "json"]).stdout)
    shown = runner.invoke(app, command, env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0][:4] == ["digits", "version", str(version), f"export.zoo.digits:v{version}"]
    for told in ("precision fp32", f"weights {record['weights_sha256']}", f"graph {record['graph_sha256']}"):
        assert told.split() in lines
    observed = [(check, name, seen) for check, outputs in record["observed"].items() for name, seen in outputs.items()]
    assert [row[:2] for row in observed] == [
        (check, name) for check in ("parity", "independence") for name in ("logits", "label")
    ]
    assert observed[0][2]["max_abs"] > 0
    for check, name, seen in observed:
        figures = f"{seen['max_abs']:.3g} {seen['excess']:.3g} {seen['cosine']:.7f} {seen['mismatched']:.3%}"
        assert [check, name, *figures.split(), seen["case"]] in lines
    narrow = runner.invoke(app, command, env={"COLUMNS": "48"}).stdout
    assert "\N{HORIZONTAL ELLIPSIS}" not in narrow


def test_spec_with_brackets_is_shown_as_it_is(samples: Path, tmp_path: Path) -> None:
    """A directory called `models[v2]` is no markup, neither while its model is exported nor in what inspect shows."""
    spec = tmp_path / "models[v2]" / "digits.onnx"
    spec.parent.mkdir()
    shutil.copyfile(samples / "digits" / "1" / "model.onnx", spec)
    repo = ["--repo", str(tmp_path / "repo")]
    for command in ([str(spec), "--name", "live", "--max-batch", "2", "--serve-check", "off"], ["inspect", "live"]):
        shown = runner.invoke(app, [*command, *repo])
        assert shown.exit_code == 0, shown.output
        assert str(spec) in "".join(shown.stdout.split())
