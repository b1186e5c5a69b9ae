"""Token buckets: how often each caller may ask."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

# Callers remembered at once. Whoever is forgotten has not asked for longest, and starts with a full bucket.
MAX_CALLERS = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


class Rates:
    """A bucket for each caller: it holds what one second allows, at least one request, and fills at `rate` requests a second."""

    def __init__(
        self, rate: float | None, *, clock: Callable[[], float] = time.monotonic, max_callers: int = MAX_CALLERS
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._max_callers = max_callers
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, *, rate: float | None = None) -> float:
        """Take one request out of the caller's bucket: 0.0, or the seconds until there is one. `rate`: theirs alone."""
        rate = rate or self._rate
        if rate is None:
            return 0.0
        now = self._clock()
        burst = max(1.0, rate)
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(burst, now)
            if len(self._buckets) > self._max_callers:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
            bucket.tokens = min(burst, bucket.tokens + (now - bucket.filled) * rate)
            bucket.filled = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate
        bucket.tokens -= 1
        return 0.0


def caller_of(host: str) -> str:
    """Whom an address stands for: itself, or its /64 network where it is IPv6, which one subscriber has the whole of."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
