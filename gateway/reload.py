"""What new settings ask of a running gateway: which processes must start anew, and what cannot change while it runs."""

from dataclasses import dataclass, fields

from gateway.config import Admin, Config, Listen

# Who has to start anew for a change of that key. Keys that are not listed: both.
_WORKERS = frozenset({"limits", "auth"})
_CONTROLLER = frozenset({"pools"})
_SUPERVISOR = frozenset({"supervision"})
_FIXED = frozenset({"state_dir", "store"})
_FIXED_OF_ADDRESS = frozenset({"host", "port"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """The consequences of a change of settings.

    Attributes:
        changed: keys that differ.
        fixed: those among them that only a restart of the whole gateway can change; with any, nothing is changed.
        workers: the workers are replaced, one after another.
        controller: the controller starts anew; requests do not notice.
    """

    changed: tuple[str, ...]
    fixed: tuple[str, ...]
    workers: bool
    controller: bool


def compare(old: Config, new: Config) -> Reload:
    """What going over from the old settings to the new ones takes."""
    changed: list[str] = []
    fixed: list[str] = []
    workers = controller = False
    for name, before, after in _differences(old, new):
        if isinstance(before, Listen | Admin):
            keys = [key for key, _, _ in _differences(before, after)]
            changed += [f"{name}.{key}" for key in keys]
            fixed += [f"{name}.{key}" for key in keys if key in _FIXED_OF_ADDRESS]
            workers |= name == "listen"
            controller |= name == "admin"
            continue
        changed.append(name)
        if name in _FIXED:
            fixed.append(name)
        workers |= name not in _CONTROLLER | _SUPERVISOR
        controller |= name not in _WORKERS | _SUPERVISOR
    return Reload(changed=tuple(changed), fixed=tuple(fixed), workers=workers, controller=controller)


def _differences(old: Config | Listen | Admin, new: object) -> list[tuple[str, object, object]]:
    pairs = ((field.name, getattr(old, field.name), getattr(new, field.name)) for field in fields(old))
    return [(name, before, after) for name, before, after in pairs if before != after]
