"""Which part of a run a figure is about: `arm=direct,variant=digits:2`, or everything."""

from collections.abc import Mapping

from loadtest.errors import UsageError

KEYS = ("arm", "request", "variant")


def parse(text: str) -> dict[str, str]:
    """Conditions of a selector; the empty text selects everything.

    Raises:
        UsageError: a condition is not KEY=VALUE or its key is unknown.
    """
    conditions: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, sep, value = part.partition("=")
        if not sep or key not in KEYS or not value:
            raise UsageError(f"selector `{text}`: `{part}` is not one of {', '.join(f'{k}=NAME' for k in KEYS)}")
        conditions[key] = value
    return conditions


def matches(conditions: Mapping[str, str], *, arm: str, request: str, variant: str) -> bool:
    """Whether a cell with these labels is selected."""
    labels = {"arm": arm, "request": request, "variant": variant}
    return all(labels[key] == value for key, value in conditions.items())
