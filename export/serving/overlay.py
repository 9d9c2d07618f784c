"""The user's own wishes over the generated config.pbtxt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.serving import proto

# Decided by the model or by publishing: an overlay that changed them would serve what nobody checked.
_PROTECTED = ("name", "backend", "platform", "input", "output", "version_policy", "default_model_filename")


def merge(message: Any, path: Path) -> list[str]:
    """Merge a config.pbtxt fragment into `message`; returns the fields it set.

    Messages are merged field by field, lists are replaced, map entries are added or replaced; a zero that is written
    out counts. ExportError names an unknown field with its line, or a field that is not the user's to set.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ExportError(f"overlay {path}: {error.strerror}") from error
    wishes = proto.from_text(text, str(path))
    fields = [field.name for field, _ in wishes.ListFields()]
    if refused := [name for name in fields if name in _PROTECTED]:
        raise ExportError(f"overlay {path}: {', '.join(refused)} may not be set, the export decides that")
    before = {name: _copy(message, name) for name in _PROTECTED}
    _make_way(message, wishes)
    proto.merge_text(message, text, str(path))
    if refused := [name for name in _PROTECTED if _copy(message, name) != before[name]]:
        raise ExportError(f"overlay {path}: {', '.join(refused)} may not be set, the export decides that")
    if message.max_batch_size < 1:
        raise ExportError(f"overlay {path}: max_batch_size must stay 1 or more")
    if message.HasField("dynamic_batching") and message.dynamic_batching.preferred_batch_size:
        largest = max(message.dynamic_batching.preferred_batch_size)
        if largest > message.max_batch_size:
            raise ExportError(
                f"overlay {path}: preferred batch size {largest} is above max_batch_size {message.max_batch_size}"
            )
    return fields


def _make_way(target: Any, wishes: Any) -> None:
    """Clear the lists and map entries that the wishes replace: merging alone would add to them."""
    for field, value in wishes.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(target, field.name)
            for key in value:
                if key in entries:
                    del entries[key]
        elif field.is_repeated:
            target.ClearField(field.name)
        elif field.message_type is not None and target.HasField(field.name):
            _make_way(getattr(target, field.name), value)


def _copy(message: Any, name: str) -> Any:
    """The field's value, not a view of it."""
    single = type(message)()
    value = getattr(message, name)
    if message.DESCRIPTOR.fields_by_name[name].is_repeated:
        getattr(single, name).MergeFrom(value)
    elif hasattr(value, "ListFields"):
        if message.HasField(name):
            getattr(single, name).CopyFrom(value)
    else:
        setattr(single, name, value)
    return single
