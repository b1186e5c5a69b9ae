"""How rows are cut into batches."""

from __future__ import annotations

import numpy as np
import pytest

from service.engine.buckets import BUCKETS, buckets_for


@pytest.mark.parametrize("count", range(1, 65))
def test_buckets_cover_every_row_once_and_pad_at_most_a_quarter(count: int) -> None:
    cuts = list(buckets_for(count))
    assert [start for start, _, _ in cuts] == list(np.cumsum([0, *(taken for _, taken, _ in cuts)])[:-1])
    assert sum(taken for _, taken, _ in cuts) == count
    assert all(bucket in BUCKETS and taken <= bucket and bucket - taken <= bucket / 4 for _, taken, bucket in cuts)
