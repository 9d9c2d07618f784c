"""Files to frozen values, and every mistake to one line that says where."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import Config
from gateway.configfile import load_config, load_routes, minimal, parse_json, parse_routes
from gateway.core.route import Match, Route, Routes, Shadow, Variant
from gateway.errors import ConfigError

_GOOD = """\
routes:
  - name: digits
    variants:
      - {name: a, model: digits, version: 1, weight: 90}
      - {name: b, model: digits, version: 2, weight: 10}
"""

_BAD_ROUTES = {
    "unknown key": (_GOOD.replace("weight: 10", "wieght: 10"), 5, "unknown key 'wieght'; did you mean 'weight'?"),
    "unknown key, none near": (_GOOD + "    zzz: 1\n", 6, "unknown key 'zzz'; known keys: name, variants"),
    "weights": (_GOOD.replace("weight: 10", "weight: 20"), 3, "weights of route 'digits' sum to 110, not 100"),
    "weight too large": (_GOOD.replace("weight: 90", "weight: 900"), 4, "must be less than or equal to 100 (is 900)"),
    "weight not a number": (
        _GOOD.replace("weight: 90", "weight: .nan"),
        4,
        "must be less than or equal to 100 (is nan)",
    ),
    "wrong type": (
        _GOOD.replace("weight: 90", "weight: [1]"),
        4,
        "routes[0].variants[0].weight: must be a valid number",
    ),
    "no variants": ("routes:\n  - name: a\n    variants: []\n", 3, "routes[0].variants: must not be empty"),
    "missing key": ("routes:\n  - name: a\n", 2, "routes[0].variants: is missing"),
    "duplicate key": (_GOOD + "routes: []\n", 6, "key 'routes' appears twice (first on line 1)"),
    "duplicate variant": (_GOOD.replace("name: b", "name: a"), 3, "variant 'a' appears twice"),
    "bad route name": (_GOOD.replace("digits\n", "a/b\n"), 2, "may only use letters"),
    "dangling shadow": (_GOOD + "    shadows: [{variant: c}]\n", 6, "variant 'c' does not exist"),
    "tab": ("routes:\n\t- name: a\n", 2, "a tab cannot indent; use spaces"),
    "not YAML": ("routes: [\n", 2, "not valid YAML"),
    "control character": ("routes: \x00\n", 1, "not valid YAML"),
    "not a mapping": ("- a\n", 1, "must be a mapping of keys, not a list"),
    "not a list": ("routes: {a: 1}\n", 1, "routes: must be a list, not a mapping"),
    "key of a number": ("1: 2\n", 1, "keys must be text, not '1'"),
    "invalid date": ("routes: 2024-13-45\n", 1, "'2024-13-45' is not valid"),
    "two documents": ("routes: []\n---\nroutes: []\n", 2, "not valid YAML"),
}


@pytest.mark.parametrize(("text", "line", "what"), _BAD_ROUTES.values(), ids=_BAD_ROUTES.keys())
def test_a_mistake_in_routes_is_named_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    """Each mistake is one line of file, line number and what is wrong."""
    path = tmp_path / "routes.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_routes(path)
    assert len(raised.value.problems) == 1
    assert raised.value.problems[0].startswith(f"{path}:{line}: ")
    assert what in raised.value.problems[0]


_BAD_CONFIG = {
    "typo": ("workerz: 3\n", 1, "unknown key 'workerz'; did you mean 'workers'?"),
    "nested typo": ("listen:\n  prot: 1\n", 2, "unknown key 'prot'; did you mean 'port'?"),
    "range": ("listen:\n  port: 99999\n", 2, "less than or equal to 65535 (is 99999)"),
    "open admin": ("admin:\n  host: 0.0.0.0\n", 2, "set admin.token_file"),
    "same port": ("admin:\n  port: 8080\n", 2, "port 8080 is already the data plane's"),
    "pool twice": (
        "pools:\n  - {name: a, backends: [{url: 'http://a'}]}\n  - {name: a, backends: [{url: 'http://b'}]}\n",
        3,
        "pool 'a' appears twice",
    ),
    "backend without scheme": ("pools:\n  - {name: a, backends: [{url: 'a:1'}]}\n", 2, "must start with http://"),
    "backend with path": ("pools:\n  - {name: a, backends: [{url: 'http://a/v2'}]}\n", 2, "only scheme, host and port"),
    "backend port": ("pools:\n  - {name: a, backends: [{url: 'http://a:99999'}]}\n", 2, "Port out of range"),
    "log level": ("log:\n  level: loud\n", 2, "'debug', 'info', 'warning' or 'error'"),
    "mapping wanted": ("limits: 7\n", 1, "limits: must be a mapping, not 7"),
}


@pytest.mark.parametrize(("text", "line", "what"), _BAD_CONFIG.values(), ids=_BAD_CONFIG.keys())
def test_a_mistake_in_settings_is_named_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    """The same for sluice.yaml."""
    path = tmp_path / "sluice.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert raised.value.problems[0].startswith(f"{path}:{line}: ")
    assert what in raised.value.problems[0]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """Three mistakes give three lines."""
    path = tmp_path / "sluice.yaml"
    path.write_text("workerz: 1\nlisten: {port: -1}\nlimits: {drain_s: x}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert sorted(line.split(": ")[0][len(str(path)) :] for line in raised.value.problems) == [":1", ":2", ":3"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"routes:\n- \xff\n", ":2: not UTF-8 (byte 0xff)"),
        (b"[" * 3000, "nested too deeply"),
        (b"a" * (9 << 20), "larger than 8 MiB"),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(8)),
            "more than 200000 values",
        ),
    ],
)
def test_an_unreadable_file_is_one_message(tmp_path: Path, data: bytes, what: str) -> None:
    """Empty, binary, deep, huge and exploding files are refused with one line."""
    path = tmp_path / "routes.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        load_routes(path)
    assert len(raised.value.problems) == 1
    assert what in raised.value.problems[0]


def test_a_missing_file_is_one_message(tmp_path: Path) -> None:
    """No file, a directory: named."""
    with pytest.raises(ConfigError, match="no such file"):
        load_routes(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_routes(tmp_path)


def test_numbers_become_text_where_text_is_wanted() -> None:
    """`version: 2` means the version called 2."""
    route = parse_routes(_GOOD, "x").routes[0]
    assert [variant.version for variant in route.variants] == ["1", "2"]


def test_anchors_and_merges_work() -> None:
    """YAML's own way to say things once is allowed, and a key of one's own wins over a merged one."""
    text = """\
routes:
  - &base
    name: one
    timeout_s: 3
    variants: [{name: a, model: m, weight: 100}]
  - <<: *base
    name: two
"""
    one, two = parse_routes(text, "x").routes
    assert (one.name, two.name, two.timeout_s, two.variants) == ("one", "two", 3.0, one.variants)


def test_an_empty_settings_value_is_the_default(tmp_path: Path) -> None:
    """Every setting has a default."""
    path = tmp_path / "sluice.yaml"
    path.write_text("workers: 1\n")
    assert load_config(path) == Config()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{", "body is not valid JSON"),
        (b'{"routes": [], "routes": []}', "key 'routes' appears twice"),
        (b'{"rotues": []}', "rotues: unknown key 'rotues'; did you mean 'routes'?"),
        (b"[]", "must be a mapping, not a list"),
        (b"[" * 100_000, "body is not valid JSON"),
    ],
)
def test_json_bodies_are_checked_alike(body: bytes, what: str) -> None:
    """A body of the admin API gets the same messages with paths in place of lines."""
    with pytest.raises(ConfigError) as raised:
        parse_json(body, Routes)
    assert what in raised.value.problems[0]


_names = st.text("abcXYZ019-._~", min_size=1, max_size=12).filter(lambda name: name not in {".", ".."})

_values = st.text("a0 '\"#:-\n\t\x85{[&*!|>%@`\u00e4\U0001f600", max_size=5)


@st.composite
def _routes(draw: st.DrawFn) -> Routes:
    found = []
    for name in draw(st.lists(_names, unique=True, max_size=3)):
        names = draw(st.lists(_names, unique=True, min_size=1, max_size=3))
        weights = [100.0, *[0.0] * (len(names) - 1)]
        variants = [
            Variant(name=v, model=draw(_names), version=draw(st.sampled_from(["", "1", "12"])), weight=w)
            for v, w in zip(names, weights, strict=True)
        ]
        shadows = [Shadow(variant=names[-1], sample=draw(st.floats(0, 100)))] if draw(st.booleans()) else []
        matches = [Match(header="x-a", value=draw(_values), variant=names[0])]
        found.append(Route(name=name, variants=tuple(variants), shadows=tuple(shadows), matches=tuple(matches)))
    return Routes(routes=tuple(found))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # the machine may be busy
@given(_routes())
def test_what_is_shown_can_be_applied_again(routes: Routes) -> None:
    """The short form that `get -o yaml` prints reads back as the very same routes."""
    assert parse_routes(yaml.safe_dump(minimal(routes)) or "", "x") == routes
