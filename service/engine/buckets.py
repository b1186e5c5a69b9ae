"""The batch sizes of the encoder: an engine pays for each new size once, and all are warmed before the service is ready."""

from __future__ import annotations

from collections.abc import Iterator

BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def buckets_for(rows: int) -> Iterator[tuple[int, int, int]]:
    """Cut `rows` into warmed batch sizes: yields (start, rows taken, bucket).

    A bucket is padded only where at most a quarter of it is padding: 13 rows run as 16, 17 rows as 16 and 1.
    """
    start = 0
    while start < rows:
        left = rows - start
        above = next((bucket for bucket in BUCKETS if bucket >= left), BUCKETS[-1])
        bucket = above if above >= left and above - left <= above // 4 else max(b for b in BUCKETS if b <= left)
        taken = min(left, bucket)
        yield start, taken, bucket
        start += taken
