"""When two arrays that an engine computed are the same.

# Note [The same, computed twice]
Where one engine runs the same rows at the same batch size twice, in another slot, through a CUDA graph or beside another
batch, the answers are bit for bit alike as a rule, and the record says so. Asserted is 1e-3 of the largest value: kernels
that add in the order in which blocks finish may differ in the last bits, and rows of another batch differ by 0.1 and more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAME = 1e-3


def same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Assert it, see Note [The same, computed twice]; returns whether they are alike bit for bit."""
    assert found.shape == expected.shape
    apart = float(np.abs(found - expected).max())
    assert apart <= SAME * float(np.abs(expected).max())
    return bool(np.array_equal(found, expected))
