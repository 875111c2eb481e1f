"""Which plans and decisions are legal, and which have been overtaken (docs/semantics.md, section 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import Policy
from hexopt.core.view import CallState
from hexopt.errors import ConfigError, PlanError
from hexopt.sim.live import LiveCall


def plan_latency(policy: Policy) -> int | None:
    """Return a policy's fixed plan latency in µs, ``None`` for the measured one."""
    value = getattr(policy, "plan_latency_us", 0)
    if value == "measured":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(
            f"policy '{policy.name}': plan_latency_us is {value!r}, "
            "it is a whole number of µs of at least 0 or 'measured', correct it"
        )
    return value


def check_plan(policy: Policy, now_us: int, plan: object) -> None:
    """Raise ``PlanError`` unless ``plan`` is a plan, with a future wake-up and one decision per call."""
    if not (
        isinstance(plan, Plan)
        and isinstance(plan.decisions, Sequence)
        and all(isinstance(d, Decision) and type(d.call).__hash__ is not None for d in plan.decisions)
        and (plan.wake_us is None or (isinstance(plan.wake_us, int) and not isinstance(plan.wake_us, bool)))
    ):
        raise PlanError(
            f"policy '{policy.name}': its answer at {now_us} µs is {str(plan)[:200]}, a policy answers with "
            "Plan(decisions, wake_us), a sequence of Decision and a whole number of µs or None, correct it"
        )
    if plan.wake_us is not None and plan.wake_us <= now_us:
        raise PlanError(
            f"policy '{policy.name}': it asks at {now_us} µs for a wake-up at {plan.wake_us} µs, "
            "a wake-up lies in the future, ask for a later instant"
        )
    if len(plan.decisions) > 1:
        decided: set[int] = set()
        for decision in plan.decisions:
            if decision.call in decided:
                raise PlanError(
                    f"policy '{policy.name}': its plan at {now_us} µs decides twice about call {decision.call}, "
                    "a plan has one decision per call, drop one"
                )
            decided.add(decision.call)


class DecisionRules:
    """The rules for one decision, under a cluster's binding mode."""

    def __init__(self, binding: str) -> None:
        self._binding = binding
        self._handoff = binding == "handoff"

    def check(self, policy: Policy, now_us: int, decision: Decision, call: LiveCall | None, revealed: int) -> LiveCall:
        """Return the call a decision is about; raise :class:`~hexopt.errors.PlanError` if it can never be carried out.

        ``call`` is the incomplete call with the decision's key, if there is one, of ``revealed`` calls so far.
        """
        if call is None:
            if isinstance(decision.call, int) and 0 <= decision.call < revealed:
                why = "the call is complete, decide about incomplete calls only"
            else:
                why = "no call with this key is revealed, use the key of a CallView"
            raise _error(policy, now_us, decision, None, why)
        for role, index, candidates in (
            ("prefill", decision.prefill, call.prefill_candidates),
            ("decode", decision.decode, call.decode_candidates),
        ):
            if not (type(index) is int or hasattr(type(index), "__index__")) or index not in candidates:
                why = (
                    f"{role} instance {index!r} does not exist or its total KV capacity does not hold the call, "
                    f"legal are {list(candidates)}, choose one of the call's {role}_candidates"
                )
                raise _error(policy, now_us, decision, call, why)
        try:
            finite = math.isfinite(decision.priority)
        except (TypeError, OverflowError):
            finite = False
        if not finite:
            why = f"priority {decision.priority!r} is no finite number, use one"
            raise _error(policy, now_us, decision, call, why)
        why = "" if call.state <= CallState.QUEUED else self.overtaken(call, decision)
        if why:
            raise _error(policy, now_us, decision, call, why)
        return call

    def overtaken(self, call: LiveCall, decision: Decision) -> str:
        """Say why a decision cannot be carried out any more; empty if it can."""
        state = call.state
        if state <= CallState.QUEUED:
            return ""
        if decision.prefill != call.prefill:
            return f"the call's prefill has started on instance {call.prefill}, a started prefill is never moved"
        if decision.decode != call.decode and not (self._handoff and state <= CallState.ADMISSION):
            return (
                f"the call is bound to decode instance {call.decode}, under binding "
                f"'{self._binding}' it is too late to re-bind it"
            )
        if state >= CallState.RUNNING:
            return "the call has joined its batch, nothing is left to decide"
        return ""


def _error(policy: Policy, now_us: int, decision: Decision, call: LiveCall | None, why: str) -> PlanError:
    who = f"call {decision.call!r}" if call is None else f"'{call.workflow.truth.workflow_id}/{call.call_id}'"
    return PlanError(
        f"policy '{policy.name}': its decision at {now_us} µs about {who} "
        f"(prefill {decision.prefill}, decode {decision.decode}, priority {decision.priority}): {why}"
    )
