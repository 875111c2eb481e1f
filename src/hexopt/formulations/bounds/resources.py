"""What calls take of the cluster, in which time they can take it, and how much there is; equations (3) to (10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hexopt.formulations.bounds.path import Paths
from hexopt.formulations.bounds.service import NEVER, SHAVE, Floats, Service


@dataclass(frozen=True)
class Resource:
    """One kind of capacity, by class of equal instances.

    Attributes
    ----------
    take
        Shape (C, G, V): what call c takes at least of class g in mode v, capacity units × µs; infinite where it cannot.
    delay_us
        Shape (C, G, V): how long that keeps the call at least.
    growth
        Shape (C, G): what comes on top of both in any mode, at any time, as the call's context grows.
    lead_us
        Shape (C, G): it begins no earlier than this after the workflow's arrival.
    after_us
        Shape (C, G): the workflow completes no earlier than this after it ends.
    capacity
        Shape (G,): units of the class.
    needed
        Shape (C,): whether the call takes any of it.
    """

    name: str
    take: Floats
    delay_us: Floats
    growth: Floats
    lead_us: Floats
    after_us: Floats
    capacity: Floats
    needed: np.ndarray

    def least(self) -> Floats:
        """Return shape (C,): the least that each call takes of its share of the whole pool, µs."""
        share = (self.take.min(axis=2) + self.growth).min(axis=1) / self.capacity.sum()
        return np.where(self.needed, share, 0.0)


NAMES = ("prefill", "decode", "decode-kv", "prefill-kv", "prefill-nic", "decode-nic")
"""All resources that there are."""


def resources(service: Service, where: Paths) -> list[Resource]:
    """Return the resources of a cluster that a trace's calls compete for."""
    s, head, tail = service, where.head_us[:, None], where.tail_us[:, None]
    everyone = np.ones(len(s.prompt), bool)
    at_prefill = head + np.zeros_like(s.prefill_us)
    least_prefill = s.prefill_us.min(axis=1)[:, None]
    found = [
        Resource("prefill", s.prefill_share_us[:, :, None], s.prefill_us[:, :, None],
                 np.zeros_like(at_prefill), at_prefill,
                 tail + s.after_prefill_us, s.prefill_count, everyone),
        _decode(service, head, tail),
    ]  # fmt: skip
    held = s.wire_us.min(axis=1) + s.moved_us[:, None] + s.decode_us
    found.append(
        _area("decode-kv", s.total_blocks[:, None] * held, head + least_prefill, tail, s.decode_count * s.decode_blocks,
              s.decodes)
    )  # fmt: skip
    kept = s.prefill_us + s.wire_us.min(axis=2) + s.moved_us[:, None]
    least_decode = s.decode_us.min(axis=1)[:, None]
    found.append(
        _area("prefill-kv", s.prompt_blocks[:, None] * kept, at_prefill, tail + least_decode,
              s.prefill_count * s.prefill_blocks, everyone)
    )  # fmt: skip
    if service.cluster.network.contention == "nic":
        latency = s.moved_us[:, None]
        found.append(
            _area("prefill-nic", _wire_from(service), head + s.prefill_us, tail + latency + least_decode,
                  s.prefill_count, s.decodes)
        )  # fmt: skip
        found.append(
            _area("decode-nic", np.where(np.isfinite(s.decode_us), s.wire_us.min(axis=1), NEVER), head + least_prefill,
                  tail + latency + s.decode_us, s.decode_count, s.decodes)
        )  # fmt: skip
    return [r for r in found if r.needed.any()]


def _wire_from(service: Service) -> Floats:
    fits = np.isfinite(service.decode_us)[:, None, :]
    wire = np.where(fits, service.wire_us, NEVER).min(axis=2)
    return np.where(np.isfinite(service.prefill_us), wire, NEVER)


def _area(name: str, take: Floats, lead: Floats, after: Floats, capacity: Floats, needed: np.ndarray) -> Resource:
    take = take[:, :, None]
    return Resource(name, take, np.zeros_like(take), np.zeros_like(take[:, :, 0]), lead + np.zeros_like(take[:, :, 0]),
                    after + np.zeros_like(take[:, :, 0]), capacity, needed)  # fmt: skip


def _decode(service: Service, head: Floats, tail: Floats) -> Resource:
    """Equations (6), (7): in mode v an iteration takes ``share`` of the instance and ``delay`` of the call's time.

    Both are taken at the call's first context; what its own tokens add to it later is the growth.
    """
    s = service
    width = max(len(modes.delay_ms) for modes in s.modes)
    take = np.full((len(s.steps), len(s.modes), width), NEVER)
    delay = np.full_like(take, NEVER)
    first = s.steps * (s.prompt + 1.0)
    growth = np.zeros(take.shape[:2])
    for e, modes in enumerate(s.modes):
        context = modes.context_ms * first[:, None]
        growth[:, e] = 1000 * modes.context_ms * (s.context - first) * SHAVE
        fits = np.isfinite(s.decode_us[:, e])[:, None]
        v = len(modes.delay_ms)
        take[:, e, :v] = np.where(fits, 1000 * (s.steps[:, None] * modes.share_ms + context) * SHAVE, NEVER)
        delay[:, e, :v] = np.where(fits, 1000 * (s.steps[:, None] * modes.delay_ms + context) * SHAVE, NEVER)
    return Resource("decode", take, delay, growth, head + s.to_decode_us, tail + np.zeros_like(s.decode_us),
                    s.decode_count, s.decodes)  # fmt: skip
