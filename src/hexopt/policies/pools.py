"""Cortex's pools (arXiv 2510.14126): which instances of a role serve which stage, who lends and who is scaled."""

from __future__ import annotations

from collections.abc import Sequence


def sizes(weights: Sequence[float], instances: int) -> list[int]:
    """Share out instances in proportion to weights, at least one each.

    One by one, each goes to the pool with the most weight per instance, ties to the first: the busiest pool is as
    little busy as can be.

    >>> sizes([6.0, 2.0], 8)
    [6, 2]
    >>> sizes([90.0, 9.0, 1.0], 4)
    [2, 1, 1]
    """
    shares = [1] * len(weights)
    for _ in range(instances - len(weights)):
        busiest = max(range(len(shares)), key=lambda i: (weights[i] / shares[i], -i))
        shares[busiest] += 1
    return shares


class Pools:
    """The pools of one role. Stages are numbers from 0 on.

    With more stages than instances the heaviest have a pool each, and the others share the last one.

    Parameters
    ----------
    instances
        Number of instances of the role.
    lend_below, lend_after_us
        An instance may be lent when its load and its memory have both been below ``lend_below`` for so long.
    """

    def __init__(self, instances: int, lend_below: float, lend_after_us: int) -> None:
        self._lend_below = lend_below
        self._lend_after_us = lend_after_us
        self.pool_of: list[int] = []
        """By stage: its pool."""
        self.home: list[int] = [0] * instances
        """By instance: the pool that owns it."""
        self.serves: list[int] = [0] * instances
        """By instance: the pool that it serves; another than its home, if it is lent."""
        self._idle_since_us = [-1] * instances

    def partition(self, weights: Sequence[float]) -> None:
        """Provision the pools of all stages (``weights`` by stage) anew, in cluster order; nothing stays lent."""
        n = len(self.home)
        if len(weights) <= n:
            self.pool_of = list(range(len(weights)))
            pooled = list(weights)
        else:
            heaviest = sorted(range(len(weights)), key=lambda s: (-weights[s], s))[: n - 1]
            number = {stage: i for i, stage in enumerate(sorted(heaviest))}
            self.pool_of = [number.get(stage, n - 1) for stage in range(len(weights))]
            pooled = self.weights(weights)
        self.home = [pool for pool, size in enumerate(sizes(pooled, n)) for _ in range(size)]
        self.serves = list(self.home)

    def weights(self, weights: Sequence[float]) -> list[float]:
        """Add up the weights of stages by pool."""
        pooled = [0.0] * (max(self.pool_of) + 1)
        for stage, weight in enumerate(weights):
            pooled[self.pool_of[stage]] += weight
        return pooled

    def members(self, stage: int) -> list[int]:
        """Return the instances that serve a stage now."""
        pool = self.pool_of[stage]
        return [i for i, serves in enumerate(self.serves) if serves == pool]

    def watch(self, use: Sequence[tuple[float, float]], now_us: int) -> None:
        """Note which instances are idle: ``use`` is the load and the memory in use of each, as shares."""
        for i, (load, memory) in enumerate(use):
            if load >= self._lend_below or memory >= self._lend_below:
                self._idle_since_us[i] = -1
            elif self._idle_since_us[i] < 0:
                self._idle_since_us[i] = now_us
            elif self.serves[i] != self.home[i] and self._may_lend(i, now_us):
                self.serves[i] = self.home[i]  # its borrower needs it no longer
                self._idle_since_us[i] = now_us

    def _may_lend(self, i: int, now_us: int) -> bool:
        since = self._idle_since_us[i]
        return 0 <= since <= now_us - self._lend_after_us

    def strengthen(
        self, stage: int, weights: Sequence[float], load: Sequence[float], able: Sequence[int], now_us: int
    ) -> int:
        """Give the pool of a stage that threatens the SLO one more of the ``able`` instances; return which, or -1.

        First one of its own that is lent out; then an idle one of another pool, on loan; then one to keep, if it has
        fewer than its work is worth, from the pool that has most above that. Of several, the least loaded one.
        """
        pool = self.pool_of[stage]
        lent = [i for i in able if self.home[i] == pool != self.serves[i]]
        if lent:
            return self._serve(lent, pool, load)
        others = [i for i in able if self.serves[i] == self.home[i] != pool]
        idle = [i for i in others if self._may_lend(i, now_us)]
        if idle:
            i = self._serve(idle, pool, load)
            self._idle_since_us[i] = -1
            return i
        pooled = self.weights(weights)
        worth = sizes(pooled, len(self.home))
        spare = [self.home.count(i) - worth[i] for i in range(len(worth))]
        if spare[pool] >= 0:
            return -1
        donor = max(range(len(spare)), key=lambda i: (spare[i], -i))
        own = [i for i in others if self.home[i] == donor]
        if not own:
            return -1
        i = self._serve(own, pool, load)
        self.home[i] = pool
        return i

    def _serve(self, some: Sequence[int], pool: int, load: Sequence[float]) -> int:
        i = min(some, key=lambda i: (load[i], i))
        self.serves[i] = pool
        return i
