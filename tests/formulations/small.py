"""Windows small enough to be worked out by hand."""

from __future__ import annotations

from typing import Any

from hexopt.core.window import Window


def call(name: str, prefill_us: list[int | None], decode_us: list[int | None], **more: Any) -> dict[str, Any]:
    """Return an open call of workflow 0 with one block on either side; ``wire`` is the same for all pairs."""
    wire = more.pop("wire", 5)
    return {
        "id": name,
        "workflow": 0,
        "state": "open",
        "one_token": False,
        "prefill_blocks": 1,
        "kv_blocks": 1,
        "tail_us": 0,
        "prefill_us": prefill_us,
        "wire_us": more.pop("wires", [[wire] * len(decode_us) for _ in prefill_us]),
        "decode_us": decode_us,
        **more,
    }


def bound(name: str, prefill_us: list[int | None], decode_us: list[int | None], **more: Any) -> dict[str, Any]:
    """Return a bound call, of prefill and decode instance 0 and available at once unless told."""
    return call(name, prefill_us, decode_us, **{"state": "bound", "prefill": 0, "decode": 0, "available_us": 0, **more})


def instances(
    prefills: int, decodes: int, prefill: dict[str, Any] | None = None, decode: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return idle instances with plenty of room; what is given changes the first of each role."""
    ps = [{"name": f"p{k}", "type": "p", "free_us": 0, "nic_free_us": 0, "kv_blocks": 99} for k in range(prefills)]
    d: dict[str, Any] = {"type": "d", "nic_free_us": 0, "kv_free_blocks": 99, "releases": [], "max_new": 9}
    ds = [{"name": f"d{k}", **d, "batch": 0, "context_tokens": 0} for k in range(decodes)]
    ps[0].update(prefill or {})
    ds[0].update(decode or {})
    return {"prefill": ps, "decode": ds}


def plain_window(
    calls: list[dict[str, Any]], where: dict[str, Any] | None = None, workflows: Any = None, **options: Any
) -> dict[str, Any]:
    """Return the plain values of a window; one workflow of horizon 100 unless told."""
    where = where or instances(len(calls[0]["prefill_us"]), len(calls[0]["decode_us"]))
    workflows = workflows or [{"id": "w", "elapsed_us": 0, "horizon_us": 100}]
    named = {"schema_version": 1, "name": "small", "provenance": "by hand", "options": options}
    return {**named, **where, "workflows": workflows, "calls": calls}


def small_window(*args: Any, **options: Any) -> Window:
    """Return the window of :func:`plain_window`."""
    return Window.from_json(plain_window(*args, **options))
