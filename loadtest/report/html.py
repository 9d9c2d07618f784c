"""The report of a run as one HTML file that needs nothing else: no scripts, no links, pictures inside."""

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup
from pydantic import TypeAdapter

from loadtest.report.plots import all_pictures
from loadtest.report.terminal import interval, number
from loadtest.results import Result
from loadtest.scenario import Scenario


def render(result: Result) -> str:
    """The report's HTML. Everything that came from a server or a file is escaped; only our own pictures are not."""
    scenario = TypeAdapter(Scenario).validate_python(result.scenario)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"number": number, "interval": interval}
    template = environment.from_string(files("loadtest.report").joinpath("report.html.j2").read_text(encoding="utf-8"))
    # matplotlib escapes the text inside its pictures.
    pictures = [(title, Markup(svg)) for title, svg in all_pictures(result, scenario.shape.curve())]  # noqa: S704
    return template.render(result=result, scenario=scenario, pictures=pictures)


def write(path: Path, result: Result) -> None:
    """Store the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(result), encoding="utf-8")
