"""What the command line says about frames, held against what the model takes."""

from __future__ import annotations

import keras
import pytest

from models.errors import ExportRefused
from models.readings.flags import Reading, input_of, parse_size, sampling_of
from models.readings.subject import pixels_shape


def test_size_and_color_come_from_the_model_where_it_tells_them() -> None:
    spec = input_of((96, 128, 3), Reading())
    assert (spec.height, spec.width, spec.color, spec.resize.rule) == (96, 128, "rgb", "squash")
    assert input_of((8, 8, 1), Reading()).color == "gray"
    assert input_of((8, 8, 1), Reading(color="gray")).color == "gray"
    assert input_of((None, None, 3), Reading(size="96x128", resize="crop:160")).resize.short_side == 160


@pytest.mark.parametrize(
    ("shape", "reading", "saying"),
    [
        ((None, None, 3), Reading(), "frames of any size .*--size HxW, such as 224x224"),
        ((32, 32, 3), Reading(size="64x64"), "--size 64x64: the model takes frames of 32×32 and no other"),
        ((32, 32, 4), Reading(), "frames of 4 channels"),
        ((32, 32, None), Reading(), "frames of None channels"),
        ((32, 32, 1), Reading(color="bgr"), "--color bgr is for 3 channels, the model takes 1"),
        ((32, 32, 3), Reading(color="gray"), "--color gray is for 1 channel, the model takes 3"),
        ((32, 32, 3), Reading(resize="crop:16"), "short side of 16 is smaller than the model's frames of 32×32"),
        ((32, 32, 3), Reading(resize="stretch"), "none of squash, pad and crop:SHORT_SIDE"),
    ],
)
def test_a_flag_that_the_model_contradicts_is_refused(
    shape: tuple[int | None, ...], reading: Reading, saying: str
) -> None:
    height, width, channels = shape
    with pytest.raises(ExportRefused, match=saying):
        input_of((height, width, channels), reading)


@pytest.mark.parametrize("text", ["224", "224x", "x224", "0x4", "-4x4", "9999x4", "²x4", "4x4x3"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ExportRefused, match="is not HxW, height first"):
        parse_size(text)
    assert parse_size("224X160") == (224, 160)


def test_a_model_of_fixed_length_takes_that_many_frames_and_repeats_those_of_a_short_clip() -> None:
    sampling = sampling_of(100, Reading())
    assert (sampling.frames, sampling.max_frames, sampling.short_clip, sampling.strategy) == (
        100,
        100,
        "repeat",
        "uniform",
    )
    free = sampling_of(None, Reading())
    assert (free.frames, free.max_frames, free.short_clip) == (16, 64, "as_is")
    assert sampling_of(None, Reading(frames=20, sampling="fps:4")).fps == 4


@pytest.mark.parametrize(
    ("fixed", "reading", "saying"),
    [
        (8, Reading(frames=16), "--frames 16: the model takes 8 frames and no other number"),
        (
            8,
            Reading(sampling="fps:4"),
            "--sampling fps:4 gives a number of frames that follows from a clip's length, the model takes 8",
        ),
        (None, Reading(frames=65, max_frames=64), "--frames 65 exceeds --max-frames 64"),
        (80, Reading(max_frames=64), "--frames 80 exceeds --max-frames 64"),
        (None, Reading(sampling="often"), "neither uniform nor fps:RATE"),
        (None, Reading(sampling="fps:-1"), "neither uniform nor fps:RATE"),
        (None, Reading(sampling="hz:4"), "neither uniform nor fps:RATE"),
    ],
)
def test_a_sampling_that_the_model_cannot_take_is_refused(fixed: int | None, reading: Reading, saying: str) -> None:
    with pytest.raises(ExportRefused, match=saying):
        sampling_of(fixed, reading)


def test_what_a_model_takes_is_told_by_its_input_of_pixels() -> None:
    clips, mask = keras.Input((None, 8, 8, 3)), keras.Input((None,), dtype="bool")
    x = keras.layers.TimeDistributed(keras.layers.Flatten())(clips)
    assert pixels_shape(keras.Model([mask, clips], keras.layers.LSTM(2)(x, mask=mask))) == (None, None, 8, 8, 3)
    grey = keras.Input((10, 48, 64))
    model = keras.Model(grey, keras.layers.Dense(2)(keras.layers.Flatten()(grey)))
    assert pixels_shape(model, gray=True) == (None, 10, 48, 64, 1)
    assert pixels_shape(model) == (None, 10, 48, 64)
    features = keras.Input((None, 64))
    with pytest.raises(ExportRefused, match="features and no pixels; give it with --head"):
        pixels_shape(keras.Model(features, keras.layers.LSTM(2)(features)))
    row = keras.Input((64,))
    with pytest.raises(ExportRefused, match=r"takes \[None, 64\]; Marey takes one input"):
        pixels_shape(keras.Model(row, keras.layers.Dense(2)(row)))
