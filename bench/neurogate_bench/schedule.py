"""When requests are sent: the arrival times of an open loop, fixed before the run by a seed."""

from __future__ import annotations

import random


def poisson_arrivals(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Offsets in seconds from the start, ascending, of a Poisson process of `rate` arrivals per second.

    Raises:
        ValueError: the rate or the duration is not positive.
    """
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"rate and seconds must be positive, not {rate} and {seconds}")
    source = random.Random(seed)
    offsets: list[float] = []
    moment = source.expovariate(rate)
    while moment < seconds:
        offsets.append(moment)
        moment += source.expovariate(rate)
    return offsets


def share_arrivals(offsets: list[float], parts: int) -> list[list[float]]:
    """Deals one schedule out to several generator processes, so that together they send exactly it."""
    if parts < 1:
        raise ValueError(f"parts must be at least 1, not {parts}")
    return [offsets[part::parts] for part in range(parts)]
