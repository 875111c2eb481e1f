"""Which waiting calls may rank differently than when they were placed?

For policies whose priority depends on the call's whole workflow. A call is revealed when its parents are complete, so
the open calls of a workflow (revealed and not complete) are siblings, and what one of them does changes the rank of
the others. A workflow with one open call has nobody to change the rank of but that call itself, so only *wide*
workflows, with two or more, are looked at in every round; the work does not grow with what is queued or finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from hexopt.core.view import CallState, CallView, DecodeView, View, WorkflowView
from hexopt.policies.horizon import Horizon

_FORGET_ABOVE = 4096


class OpenWorkflow:
    """A workflow and its open calls, in order of revealing.

    ``changed``: a call was revealed or completed between the last two looks; ``moved``: a call changed its state.
    ``horizon`` belongs to the policy that keeps one.
    """

    __slots__ = ("_known", "_states", "calls", "changed", "horizon", "moved", "workflow")

    def __init__(self, workflow: WorkflowView) -> None:
        self.workflow = workflow
        self.calls: list[CallView] = []
        self.changed = self.moved = False
        self.horizon: Horizon | None = None
        self._known = 0
        self._states: list[CallState] = []

    def update(self) -> None:
        """Take up calls revealed since, drop those completed since."""
        revealed = self.workflow.calls
        self.changed = len(revealed) > self._known
        if self.changed:
            self.calls.extend(revealed[self._known :])
            self._known = len(revealed)
        states = [c.state for c in self.calls]
        self.moved = states != self._states
        if CallState.COMPLETE in states:
            self.changed = True
            self.calls = [c for c in self.calls if c.state != CallState.COMPLETE]
            states = [c.state for c in self.calls]
        self._states = states

    def waiting(self) -> list[CallView]:
        """Return the calls that are placed and whose priority can still change something."""
        return [c for c in self.calls if CallState.QUEUED <= c.state <= CallState.TRANSFERRED]


class OpenWorkflows:
    """The workflows that a policy knows of, by index.

    ``forgets``: those without an open call are dropped now and then, as they can be found again from their calls.
    """

    def __init__(self, *, forgets: bool = True) -> None:
        self._forgets = forgets
        self._known: dict[int, OpenWorkflow] = {}
        self._wide: dict[int, OpenWorkflow] = {}
        self._forget_above = _FORGET_ABOVE

    def look(self, view: View, *, wide: bool, also: Sequence[CallView] = ()) -> list[OpenWorkflow]:
        """Bring up to date and return the workflows of the pool and of ``also``, and with ``wide`` the wide ones."""
        if self._forgets and len(self._known) > self._forget_above:
            self._forget()
        seen: dict[int, OpenWorkflow] = {}
        for call in chain(view.pool, also):
            workflow = call.workflow
            index = workflow.index
            if index not in seen:
                known = self._known.get(index)
                if known is None:
                    known = self._known[index] = OpenWorkflow(workflow)
                seen[index] = known
        if wide:
            for index, known in self._wide.items():
                seen.setdefault(index, known)
        for index, known in seen.items():
            known.update()
            if len(known.calls) > 1:
                self._wide[index] = known
            else:
                self._wide.pop(index, None)
        return list(seen.values())

    def _forget(self) -> None:
        """Drop workflows without an open call, whenever what is known has doubled."""
        self._known = {
            index: known
            for index, known in self._known.items()
            if any(c.state != CallState.COMPLETE for c in known.calls)
        }
        self._forget_above = max(_FORGET_ABOVE, 2 * len(self._known))


def rankable(view: View) -> list[CallView]:
    """Return the placed calls whose rank matters: those queued for prefill and those of :func:`arrived`."""
    return [*by_key(p.queue for p in view.prefill), *arrived(view)]


def arrived(view: View) -> list[CallView]:
    """Return the calls past prefill that wait on a contended decode instance.

    That is one where a call waits for KV room or the batch is full. Elsewhere calls join at the next iteration boundary
    whatever their rank.
    """
    return by_key(d.waiting for d in view.decode if d.waiting and contended(d))


def contended(d: DecodeView) -> bool:
    """Say whether calls wait on this instance for more than the next iteration boundary."""
    return d.running >= d.max_batch or any(c.state == CallState.ADMISSION for c in d.waiting.values())


def by_key(groups: Iterable[Mapping[int, CallView]]) -> list[CallView]:
    """Return the calls of all groups in order of revealing: the view's own mappings have no order to rely on."""
    return sorted(chain.from_iterable(group.values() for group in groups), key=lambda call: call.key)
