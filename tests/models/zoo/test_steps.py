"""A picture as a sequence: which pixels make a step."""

import keras
import numpy as np
import pytest

from models.errors import RecipeError
from models.zoo.steps import Scan, in_steps

PICTURE = np.arange(4 * 6 * 2, dtype=np.float32).reshape(1, 4, 6, 2)


def steps_of(*, scan: Scan, steps: int | None = None) -> np.ndarray:
    pixels = keras.Input((4, 6, 2))
    return np.asarray(keras.Model(pixels, in_steps(pixels, scan=scan, steps=steps))(PICTURE))[0]


def test_a_step_is_a_row_two_rows_or_half_of_one_from_top_to_bottom() -> None:
    rows = PICTURE[0].reshape(4, 12)
    assert np.array_equal(steps_of(scan="rows"), rows)
    assert np.array_equal(steps_of(scan="rows", steps=2), rows.reshape(2, 24))
    assert np.array_equal(steps_of(scan="rows", steps=8), rows.reshape(8, 6))


def test_columns_are_read_from_left_to_right() -> None:
    columns = PICTURE[0].swapaxes(0, 1).reshape(6, 8)
    assert np.array_equal(steps_of(scan="columns"), columns)
    assert np.array_equal(steps_of(scan="columns", steps=3), columns.reshape(3, 16))


@pytest.mark.parametrize(("scan", "steps"), [("rows", 3), ("rows", 16), ("columns", 4), ("columns", 5)])
def test_steps_that_do_not_come_out_even_are_refused_with_those_that_do(scan: Scan, steps: int) -> None:
    lines, length = (4, 6) if scan == "rows" else (6, 4)
    with pytest.raises(
        RecipeError, match=f"{lines} {scan} of {length} pixels .* in {steps} steps; choose a divisor of {lines}"
    ):
        steps_of(scan=scan, steps=steps)
