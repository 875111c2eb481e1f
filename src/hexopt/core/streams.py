"""Random numbers: one named stream per subsystem, all of one seed.

Streams of different names are independent, so that drawing more or other numbers in one subsystem (another
policy, another arrival rule) leaves the numbers of all others as they were.
"""

from __future__ import annotations

import zlib

import numpy as np

from hexopt.errors import ConfigError


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream ``name`` of ``seed``; the same pair always gives the same numbers.

    Parameters
    ----------
    seed
        Any whole number from 0.
    name
        The subsystem that draws, such as ``"arrivals"``, ``"delays"``, ``"policy"`` or ``"predictor"``.

    Raises
    ------
    ConfigError
        The seed is no whole number from 0.

    Examples
    --------
    >>> from hexopt.core.streams import stream
    >>> stream(7, "arrivals").integers(100, size=3).tolist() == stream(7, "arrivals").integers(100, size=3).tolist()
    True
    >>> stream(7, "arrivals").integers(100, size=3).tolist() == stream(7, "delays").integers(100, size=3).tolist()
    False
    """
    return _generator(seed, name)


def substream(seed: int, name: str, index: int) -> np.random.Generator:
    """Return the stream of one of many equal things, such as a workflow: it is the same whatever their number.

    >>> substream(7, "chats", 3).integers(100) == substream(7, "chats", 3).integers(100)
    np.True_
    """
    return _generator(seed, name, index)


def _generator(seed: int, name: str, *index: int) -> np.random.Generator:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed: {seed!r} found, a whole number from 0 is legal, choose another")
    # The name enters as a checksum and not as hash(name), which differs from one Python process to the next.
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(zlib.crc32(name.encode()), *index)))
