"""What the models with times share: placement, caps, completions and objectives; only the order is theirs.

Equation numbers are those of ``formulations/milp/model.md``. Columns of time are in ms, so that coefficients stay near
one another; a ratio is in ms of the longest horizon.
"""

from __future__ import annotations

from collections.abc import Sequence

from hexopt.formulations.checker import workflow_ends
from hexopt.formulations.milp.linear import LinearModel
from hexopt.formulations.milp.relaxation import Relaxation, Schedule
from hexopt.formulations.single_call import single_call_bound

MS = 1e-3
"""A µs in ms."""


class Frame:
    """Columns and rows (3) to (9) of a model, except those that say which prefill comes before which."""

    def __init__(self, relaxation: Relaxation, model: LinearModel, most: float | None) -> None:
        self.relaxation = relaxation
        self.model = model
        window, objective = relaxation.window, relaxation.objective
        self.x = {c: {p: model.binary() for p in relaxation.prefills[c]} for c in relaxation.open}
        self.y = {c: {d: model.binary() for d in ds} for c, ds in relaxation.decodes.items() if len(ds) > 1}
        self.end = {
            c: model.real(
                MS * min(window.prefill[p].free_us + relaxation.prefill_us(c, p) for p in ps),
                MS * max(relaxation.latest_end(c, p) for p in ps),
            )
            for c, ps in relaxation.prefills.items()
        }
        self.done = self._workflow_ends()
        self._place()
        self._complete()
        horizons = [w.horizon_us for w in window.workflows]
        longest = max(horizons)
        self.scale = 1.0 if objective.kind == "late" else MS * longest
        self.total = [(t, longest / h) for t, h in zip(self.done, horizons, strict=True)]
        self.primary: list[tuple[int, float]] = list(self.total)
        self._least = single_call_bound(window, objective)
        self._most = most
        self.excess: list[int] = []
        self.late: list[int] = []
        if objective.kind == "bottleneck":
            self._bottleneck()
        elif objective.kind == "hinge":
            self._hinge()
        elif objective.kind == "late":
            self._late()

    def _workflow_ends(self) -> list[int]:
        """(1), (2): each workflow's end, between what single calls need and what any call can take."""
        relaxation = self.relaxation
        latest = []
        for c, call in enumerate(relaxation.window.calls):
            if call.is_open:
                ends = [(p, relaxation.latest_end(c, p)) for p in relaxation.prefills[c]]
            else:
                ends = [(p, call.available_us or 0) for p in call.prefills()]
            ds = relaxation.decodes.get(c, [None])
            latest.append(max(relaxation.finish(c, p, d, end) for p, end in ends for d in ds))
        most = workflow_ends(relaxation.window, latest)
        return [self.model.real(MS * least, MS * end) for least, end in zip(relaxation.least_ends, most, strict=True)]

    def _place(self) -> None:
        """(3), and (5) in its weakest form."""
        relaxation, model, window = self.relaxation, self.model, self.relaxation.window
        for c, columns in self.x.items():
            model.add(((x, 1.0) for x in columns.values()), lower=1.0, upper=1.0)
            alone = [(x, -MS * (window.prefill[p].free_us + relaxation.prefill_us(c, p))) for p, x in columns.items()]
            model.add([(self.end[c], 1.0), *alone], lower=0.0)
        for columns in self.y.values():
            model.add(((y, 1.0) for y in columns.values()), lower=1.0, upper=1.0)
        sent = set(relaxation.sent)
        for d, instance in enumerate(window.decode):
            fixed = sum(relaxation.decodes[c] == [d] for c in sent)
            free = [columns[d] for c, columns in self.y.items() if c in sent and d in columns]
            if fixed + len(free) > instance.max_new:
                model.add(((y, 1.0) for y in free), upper=instance.max_new - fixed)

    def _complete(self) -> None:
        """(6): no workflow is done before its calls are."""
        for c, call in enumerate(self.relaxation.window.calls):
            done = self.done[call.workflow]
            elapsed = self.relaxation.window.workflows[call.workflow].elapsed_us
            before = MS * (elapsed + call.tail_us)
            if call.is_open and call.one_token:
                self.model.add([(done, 1.0), (self.end[c], -1.0)], lower=before)
            elif call.is_open:
                self._complete_sent(c, done, before)
            elif c in self.y:
                p = call.prefills()[0]
                finishes = [
                    (y, -MS * self.relaxation.finish(c, p, d, call.available_us or 0)) for d, y in self.y[c].items()
                ]
                self.model.add([(done, 1.0), *finishes], lower=before)

    def _complete_sent(self, c: int, done: int, before: float) -> None:
        relaxation = self.relaxation
        call, latency = relaxation.window.calls[c], relaxation.window.options.latency_us
        ps, ds = relaxation.prefills[c], relaxation.decodes[c]
        wire = call.wire_us
        by_p = {p: min(wire[p][d] for d in ds) for p in ps}
        by_d = {d: min(wire[p][d] for p in ps) for d in ds}
        after = {d: latency + (call.decode_us[d] or 0) for d in ds}
        after_terms, after_fixed = self._by_decode(c, after)
        # Within a sum over p or d exactly one column is 1.
        p_terms = [(x, -MS * by_p[p]) for p, x in self.x[c].items()]
        end = (self.end[c], -1.0)
        self.model.add([(done, 1.0), end, *after_terms, *p_terms], lower=before + after_fixed)  # (6a)
        d_terms, d_fixed = self._by_decode(c, {d: after[d] + by_d[d] for d in ds})
        self.model.add([(done, 1.0), end, *d_terms], lower=before + d_fixed)  # (6b)
        for p, x in self.x[c].items():
            soonest = relaxation.window.prefill[p].free_us + relaxation.prefill_us(c, p)
            for d in ds:
                pair = [(x, 1.0)] + ([(self.y[c][d], 1.0)] if c in self.y else [])
                if wire[p][d] > max(by_p[p], by_d[d]):  # (6c)
                    over = MS * wire[p][d]
                    self.model.add(
                        [(done, 1.0), end, *after_terms, *((z, -over * a) for z, a in pair)],
                        lower=before + after_fixed - over * (len(pair) - 1),
                    )
                if relaxation.booked_us(p, d) > soonest:  # (6d)
                    over = MS * (relaxation.booked_us(p, d) + wire[p][d])
                    self.model.add(
                        [(done, 1.0), *after_terms, *((z, -over * a) for z, a in pair)],
                        lower=before + after_fixed - over * (len(pair) - 1),
                    )

    def _by_decode(self, c: int, us: dict[int, int]) -> tuple[list[tuple[int, float]], float]:
        """Return −Σ_d us_d · y[c,d] as terms, and as a constant where there is no choice (with its sign turned)."""
        if c in self.y:
            return [(y, -MS * us[d]) for d, y in self.y[c].items()], 0.0
        return [], MS * next(iter(us.values()))

    # ----- objectives (9) ---------------------------------------------------------------------------------------------

    def _bottleneck(self) -> None:
        """(9a): one column is at least every ratio."""
        most = max(self.model.upper[t] * a for t, a in self.total)
        if self._most is not None:
            most = min(most, self._most * self.scale * (1 + 1e-9) + 2 * MS)
        self.top = self.model.real(self._least * self.scale * (1 - 1e-12), most)
        for t, a in self.total:
            self.model.add([(self.top, 1.0), (t, -a)], lower=0.0)
        self.primary = [(self.top, 1.0)]

    def _hinge(self) -> None:
        """(9b): what exceeds the scale, except of those that are given up."""
        window, model = self.relaxation.window, self.model
        given_up = self.relaxation.objective.given_up(len(window.workflows))
        self.primary = []
        for (t, a), late_us in zip(self.total, self.relaxation.objective.latest_us(window), strict=True):
            most = max(0.0, model.upper[t] - MS * late_us)
            excess = model.real(0.0, most)
            self.excess.append(excess)
            self.primary.append((excess, a))
            terms = [(t, 1.0), (excess, -1.0)]
            if given_up:
                self.late.append(model.binary())
                terms.append((self.late[-1], -most))
            model.add(terms, upper=MS * late_us)
        if given_up:
            model.add(((u, 1.0) for u in self.late), upper=given_up)

    def _late(self) -> None:
        """(9c): a workflow that ends too late counts."""
        window, model = self.relaxation.window, self.model
        for (t, _), late_us in zip(self.total, self.relaxation.objective.latest_us(window), strict=True):
            self.late.append(model.binary())
            over = max(0.0, model.upper[t] - MS * late_us)
            model.add([(t, 1.0), (self.late[-1], -over)], upper=MS * late_us)
        self.primary = [(late, 1.0) for late in self.late]

    # ----- solutions --------------------------------------------------------------------------------------------------

    def pairs(self, values: Sequence[float]) -> tuple[list[int], list[int | None]]:
        """Return each call's instances in a solution."""
        prefill: list[int] = []
        decode: list[int | None] = []
        for c, call in enumerate(self.relaxation.window.calls):
            prefill.append(_chosen(self.x[c], values) if c in self.x else call.prefills()[0])
            if call.one_token:
                decode.append(self.relaxation.idle_decode(c))
            else:
                decode.append(_chosen(self.y[c], values) if c in self.y else self.relaxation.decodes[c][0])
        return prefill, decode

    def start_from(self, schedule: Schedule) -> None:
        """Set the columns of this part to a schedule."""
        relaxation, start = self.relaxation, self.model.start
        for c, xs in self.x.items():
            start.update((x, float(p == schedule.prefill[c])) for p, x in xs.items())
            start[self.end[c]] = MS * schedule.end_us[c]
        for c, ys in self.y.items():
            start.update((y, float(d == schedule.decode[c])) for d, y in ys.items())
        ends = workflow_ends(relaxation.window, schedule.finish_us)
        start.update((t, MS * end) for t, end in zip(self.done, ends, strict=True))
        objective = relaxation.objective
        if objective.kind == "bottleneck":
            start[self.top] = max(start[t] * a for t, a in self.total)
        if objective.kind in ("hinge", "late"):
            late = [MS * us for us in objective.latest_us(relaxation.window)]
            over = [max(0.0, start[t] - us) for t, us in zip(self.done, late, strict=True)]
            worst = sorted(range(len(over)), key=lambda w: -over[w] * self.total[w][1])
            given_up = set(worst[: objective.given_up(len(over))]) if objective.kind == "hinge" else set()
            start.update((e, 0.0 if w in given_up else over[w]) for w, e in enumerate(self.excess))
            start.update(
                (u, float(over[w] > 0 if objective.kind == "late" else w in given_up)) for w, u in enumerate(self.late)
            )


def _chosen(columns: dict[int, int], values: Sequence[float]) -> int:
    return max(columns, key=lambda i: (values[columns[i]], -i))
