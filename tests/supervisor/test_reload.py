"""What a change of settings asks of a running gateway."""

from dataclasses import replace

import pytest

from gateway.config import Admin, Config, Limits, Listen, Log, config_problems
from gateway.config_supervision import Supervision
from gateway.core.pool import Backend, Pool
from gateway.reload import Reload, compare

_OLD = Config()


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (_OLD, Reload(changed=(), fixed=(), workers=False, controller=False)),
        (
            replace(_OLD, supervision=Supervision(kill_s=60)),
            Reload(changed=("supervision",), fixed=(), workers=False, controller=False),
        ),
        (
            replace(_OLD, limits=Limits(drain_s=1)),
            Reload(changed=("limits",), fixed=(), workers=True, controller=False),
        ),
        (
            replace(_OLD, pools=(Pool(name="p", backends=(Backend(url="http://127.0.0.1:1"),)),)),
            Reload(changed=("pools",), fixed=(), workers=False, controller=True),
        ),
        (replace(_OLD, log=Log(level="error")), Reload(changed=("log",), fixed=(), workers=True, controller=True)),
        (
            replace(_OLD, admin=Admin(port=1, token_file="t"), listen=Listen(port=2)),
            Reload(
                changed=("listen.port", "admin.port", "admin.token_file"),
                fixed=("listen.port", "admin.port"),
                workers=True,
                controller=True,
            ),
        ),
    ],
    ids=["nothing", "supervision", "limits", "pools", "log", "addresses"],
)
def test_who_starts_anew(new: Config, expected: Reload) -> None:
    """Only who depends on a setting is replaced for it, and an address asks for a restart."""
    assert compare(_OLD, new) == expected


def test_a_process_is_reported_before_it_is_killed() -> None:
    """The other way round makes no sense, and is refused with both values."""
    wrong = list(config_problems(Config(supervision=Supervision(warn_s=10, kill_s=10))))
    assert [(problem.where, problem.what) for problem in wrong] == [
        (("supervision", "kill_s"), "must be more than warn_s (10), is 10")
    ]
