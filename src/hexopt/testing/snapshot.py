"""A view written down, so that a policy that writes to it is found out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from hexopt.core.view import CallView, DecodeView, PrefillView, View, WorkflowView

_CONTAINERS: dict[type, tuple[str, ...]] = {
    View: ("prefill", "decode", "pool"),
    PrefillView: ("queue",),
    DecodeView: ("bound", "waiting"),
    WorkflowView: ("calls",),
    CallView: (),
}
"""Fields that can be changed in place. (A call's parents and candidates are tuples and ranges.)"""

_FIELDS = {cls: tuple(f.name for f in fields(cls)) for cls in _CONTAINERS}
_READ = {cls: attrgetter(*names) for cls, names in _FIELDS.items()}

Snapshot = dict[int, tuple[Any, ...]]
"""By identity: each object of a view, the values of its fields, and copies of its containers."""


def snapshot(view: View) -> Snapshot:
    """Write down every object that can be reached from a view, complete calls of known workflows included."""
    shot: Snapshot = {}
    stack: list[Any] = [view]
    while stack:
        thing = stack.pop()
        if id(thing) in shot:
            continue
        kind = type(thing)
        if kind not in _CONTAINERS:
            continue  # a policy put it there, and that shows in its container
        if kind is CallView:
            stack.append(thing.workflow)  # its parents are calls of its workflow
        copies = []
        for name in _CONTAINERS[kind]:
            container = getattr(thing, name)
            if isinstance(container, Mapping):
                stack.extend(container.values())
                copies.append(tuple(container.items()))
            elif isinstance(container, Sequence):
                stack.extend(container)
                copies.append(tuple(container))
            else:
                copies.append(container)  # a policy put something else in its place
        shot[id(thing)] = (thing, _READ[kind](thing), copies)
    return shot


def changes(before: Snapshot, after: Snapshot) -> str:
    """Say what differs first between two snapshots of one view; empty if nothing does."""
    for key, (thing, values, copies) in before.items():
        now = after.get(key)
        if now is None:
            return f"{_label(thing)} is no longer part of it"
        if now[1] == values and now[2] == copies:
            continue
        kind = type(thing)
        names = (*_CONTAINERS[kind], *_FIELDS[kind])
        for name, old, new in zip(names, (*copies, *values), (*now[2], *now[1]), strict=True):
            if old != new:
                return f"{name} of {_label(thing)} was {_shown(old)} and is {_shown(new)}"
    for key, (thing, *_) in after.items():
        if key not in before:
            return f"{_label(thing)} has become part of it"
    return ""


def _label(thing: Any) -> str:
    match thing:
        case CallView():
            return f"call {thing.key} ('{thing.workflow.workflow_id}/{thing.call_id}')"
        case WorkflowView():
            return f"workflow '{thing.workflow_id}'"
        case PrefillView() | DecodeView():
            return f"instance '{thing.name}'"
    return "the view"


def _shown(value: Any) -> str:
    """Calls by key; what is long is cut."""
    if isinstance(value, CallView):
        return str(value.key)
    if isinstance(value, PrefillView | DecodeView | WorkflowView):
        return _label(value)
    if isinstance(value, tuple) and all(isinstance(v, CallView | PrefillView | DecodeView | tuple) for v in value):
        # An entry of a mapping is (key, call), and the key says it all.
        return _listing(str(v[0]) if isinstance(v, tuple) else _shown(v) for v in value)
    return repr(value)[:80]


def _listing(items: Iterable[str]) -> str:
    known = list(items)
    more = len(known) - 8
    return f"[{', '.join(known[:8])}{f', and {more} more' if more > 0 else ''}]"
