"""How long requests wait for one of several servers: Erlang's delay formula.

Arrivals at random (Poisson), any of `servers` takes the next, exponential times of service: M/M/c. Decoding and networks
vary less than that, so the wait is rather overstated. A. K. Erlang, "Solution of some problems in the theory of
probabilities of significance in automatic telephone exchanges", 1917; the recursion and the tail as in D. Gross and
C. Harris, "Fundamentals of Queueing Theory", chapter on M/M/c.
"""

from __future__ import annotations

import math


def waits(servers: int, load: float) -> float:
    """Probability that a request waits, C(c, a). `load`: arrivals a second × seconds of service; 1 where it is `servers` or more."""
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang B by its recursion: no factorials, which overflow
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def late(servers: int, load: float, *, service_s: float, wait_s: float) -> float:
    """Probability that a request waits longer than `wait_s`: C(c, a) · exp(−(c − a) · wait / service)."""
    if load >= servers:
        return 1.0
    if service_s <= 0:
        return 0.0
    return waits(servers, load) * math.exp(-(servers - load) * wait_s / service_s)
