"""The steps before the network: pixels that never change under one version, and costs that no manifest can raise."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
import pytest

from service.bundle.manifest import Color, Input, Step
from service.bundle.pixel_steps import PIXEL_STEPS
from service.errors import BundleError
from service.media.image import decode_image
from service.media.limits import Limits
from service.media.steps import apply_steps

Named = tuple[str, dict[str, Any]]


def picture(side: int = 64) -> np.ndarray:
    """A bright disc in the dark with thin dark lines on it and noise, `[side, side, 3]`, from integers alone: the same everywhere."""
    y, x = np.mgrid[0:side, 0:side].astype(np.int64)
    disc = 60 + 80 * ((x - side // 2) ** 2 + (y - side // 2) ** 2 < (2 * side // 5) ** 2)
    noise = (x * 7919 + y * 104729 + x * y * 31) % 23
    lines = ((x - y) % 24 < 3) | ((x + 2 * y) % 40 < 3)
    green = disc + noise - 45 * lines
    return np.stack([green + 50, green, green // 2 + x // 4], -1).clip(0, 255).astype(np.uint8)


def stepped(*steps: Named, color: Color = "rgb", given: np.ndarray | None = None) -> np.ndarray:
    shown = picture() if given is None else given
    if color == "gray":
        shown = np.ascontiguousarray(shown[..., 1:2])
    preprocess = tuple(Step(name=name, parameters=parameters) for name, parameters in steps)
    spec = Input(height=shown.shape[0], width=shown.shape[1], color=color, preprocess=preprocess)
    return apply_steps(shown, spec=spec)


# Every ninth pixel of rows 13 and 40, of red, green and blue. OpenCV 4.11 and 5.0 give exactly these on x86-64; other processors may round
# CIELAB and the interpolation between tiles otherwise, by a level or two. A step that gives other pixels is another version of it.
GOLDEN: dict[str, tuple[Named, list[list[list[int]]]]] = {
    "denoise": (("denoise", {}), [
        [[116, 66, 33], [121, 71, 37], [197, 147, 77], [205, 155, 84], [198, 148, 83], [205, 155, 88], [111, 61, 43], [85, 35, 32]],
        [[84, 34, 17], [201, 151, 77], [158, 108, 58], [200, 150, 81], [196, 146, 82], [199, 149, 85], [208, 158, 92], [120, 70, 50]],
    ]),
    "denoise 5": (("denoise", {"kernel": 5}), [
        [[121, 71, 35], [120, 70, 36], [191, 141, 74], [200, 150, 82], [196, 146, 81], [201, 151, 86], [115, 65, 45], [85, 35, 32]],
        [[116, 66, 33], [196, 146, 75], [193, 143, 76], [202, 152, 82], [196, 146, 81], [196, 146, 84], [198, 148, 87], [118, 68, 49]],
    ]),
    "clahe": (("clahe", {}), [
        [[176, 121, 80], [127, 75, 45], [246, 192, 119], [254, 200, 122], [200, 151, 84], [255, 202, 130], [67, 16, 20], [106, 53, 49]],
        [[75, 25, 13], [227, 174, 100], [127, 81, 35], [187, 139, 72], [189, 139, 75], [189, 139, 77], [196, 147, 88], [110, 61, 45]],
    ]),
    "clahe 4×2": (("clahe", {"clip_limit": 4.0, "tiles": [4, 2]}), [
        [[175, 120, 79], [117, 67, 37], [255, 217, 143], [255, 246, 165], [255, 210, 140], [255, 241, 167], [59, 8, 12], [79, 30, 28]],
        [[58, 8, 0], [242, 188, 113], [177, 124, 77], [232, 179, 111], [233, 179, 113], [228, 175, 111], [222, 170, 111], [90, 43, 29]],
    ]),
    "vessels": (("vessels", {"replaces": "blue"}), [
        [[125, 75, 0], [112, 62, 255], [202, 152, 0], [212, 162, 0], [199, 149, 0], [209, 159, 0], [71, 21, 255], [81, 31, 255]],
        [[74, 24, 255], [198, 148, 0], [152, 102, 255], [196, 146, 255], [195, 145, 0], [194, 144, 255], [193, 143, 0], [112, 62, 255]],
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_a_version_of_a_step_stands_for_the_same_pixels_for_ever(name: str) -> None:
    step, wanted = GOLDEN[name]
    assert np.abs(stepped(step)[[13, 40], ::9].astype(int) - wanted).max() <= 2


def test_every_version_of_every_step_has_its_golden_pixels() -> None:
    assert {(name, 1) for (name, _), _ in GOLDEN.values()} == set(PIXEL_STEPS)


def test_a_median_takes_a_wrong_pixel_out_and_leaves_an_edge_where_it_is() -> None:
    given = np.zeros((16, 16, 3), np.uint8)
    given[:, 8:] = 200
    clean = given.copy()
    given[4, 4] = given[9, 12] = [255, 0, 90]
    assert (stepped(("denoise", {}), given=given) == clean).all()


def test_clahe_spreads_a_dull_picture_and_keeps_its_colour() -> None:
    dull = (100 + picture() // 16).astype(np.uint8)
    clear = stepped(("clahe", {}), given=dull)
    assert np.ptp(clear[..., 1]) > 1.5 * np.ptp(dull[..., 1])
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = np.arange(64, 192, 4)
    found = stepped(("clahe", {"tiles": [2, 2]}), given=red)
    assert (found[..., 0] > found[..., 1:].max(axis=2)).all()


def test_a_higher_clip_limit_raises_contrast_further() -> None:
    dull = (100 + picture() // 16).astype(np.uint8)
    spread = [stepped(("clahe", {"clip_limit": limit}), given=dull, color="gray").std() for limit in (4.0, 16.0, 64.0)]
    assert spread[0] < spread[1] < spread[2]


def test_tiles_are_rows_then_columns() -> None:
    given = np.zeros((32, 32, 3), np.uint8)
    given[:, 16:] = 100
    given[::2] += 4
    across = stepped(("clahe", {"tiles": [1, 4], "clip_limit": 100}), given=given, color="gray")
    down = stepped(("clahe", {"tiles": [4, 1], "clip_limit": 100}), given=given, color="gray")
    assert (across[:, 0] == across[:, 0].max()).sum() > 0
    assert np.ptp(across[:, 0]) > np.ptp(down[:, 0])


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_vessels_are_the_thin_dark_lines_and_nothing_else(color: Color) -> None:
    given = np.full((64, 64, 3), 150, np.uint8)
    given[:, :20] = 60  # dark, but no line
    given[30:32, 24:60] = 100
    mask = stepped(("vessels", {"clip_limit": 0}), given=given, color=color)
    wanted = np.zeros((64, 64), bool)
    wanted[30:32, 24:60] = True
    assert mask.shape[2] == (3 if color == "rgb" else 1)
    assert ((mask == 255) == wanted[..., None]).all()


@pytest.mark.parametrize(("channel", "number"), [("red", 0), ("green", 1), ("blue", 2)])
def test_vessels_replace_the_channel_that_is_named_and_no_other(channel: str, number: int) -> None:
    found = stepped(("vessels", {"replaces": channel}))
    kept = [other for other in range(3) if other != number]
    assert (found[..., kept] == picture()[..., kept]).all()
    assert set(np.unique(found[..., number])) == {0, 255}


def test_steps_run_in_the_order_in_which_they_stand() -> None:
    one = stepped(("denoise", {}), ("clahe", {}))
    other = stepped(("clahe", {}), ("denoise", {}))
    assert (one == stepped(("clahe", {}), given=stepped(("denoise", {})))).all()
    assert (one != other).any()


def test_a_picture_that_is_decoded_went_through_the_steps() -> None:
    data = cv2.imencode(".png", picture()[..., ::-1])[1].tobytes()
    plain = Input(height=32, width=32)
    steps = plain.model_copy(
        update={"preprocess": (Step(name="denoise"), Step(name="clahe", parameters={"tiles": [4, 4]}))}
    )
    wanted = apply_steps(decode_image(data, spec=plain, limits=Limits()).clip.frames[0], spec=steps)
    assert (decode_image(data, spec=steps, limits=Limits()).clip.frames[0] == wanted).all()


@pytest.mark.parametrize("name", ["denoise", "clahe", "vessels"])
def test_what_was_given_stays_as_it_was(name: str) -> None:
    given = picture()
    assert (stepped((name, {}), given=given) != picture()).any()
    assert (given == picture()).all()


def test_the_most_that_a_manifest_may_ask_for_takes_less_than_two_seconds_a_frame() -> None:
    given = np.ascontiguousarray(np.tile(picture(), (16, 16, 1)))
    most: tuple[Named, ...] = (
        ("denoise", {"kernel": 5}),
        ("clahe", {"clip_limit": 100, "tiles": [32, 32]}),
        ("vessels", {"kernel": 31, "clip_limit": 100, "tiles": [32, 32]}),
    )
    begun = time.process_time()
    assert stepped(*most, given=given).shape == (1024, 1024, 3)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("size", "steps", "message"),
    [
        (64, [("clahe", {"clip_limit": 1000})], r"'clahe': clip_limit = 1000: .*less than or equal to 100; change it"),
        (64, [("clahe", {"tiles": [8, 64]})], r"'clahe': tiles\.1 = 64: .*less than or equal to 32"),
        (64, [("clahe", {"tiles": [32, 32]})], "32×32 tiles of an input of 64×64 have less than 4 pixels a side; give fewer"),
        (64, [("clahe", {"cliplimit": 2})], "no parameter 'cliplimit', only clip_limit, tiles; take it out"),
        (64, [("clahe", {"clip_limit": float("nan")})], "'clahe': clip_limit = nan: .*less than or equal to 100"),
        (64, [("denoise", {"kernel": 301})], "'denoise': kernel = 301: Input should be 3 or 5"),
        (64, [("denoise", {}), ("denoise", {})], "names the step 'denoise' twice; .*take one out"),
        (64, [("vessels", {"kernel": 8})], "kernel = 8 has no pixel in its centre; give an odd number from 3 to 31"),
        (64, [("vessels", {"kernel": 33})], "'vessels': kernel = 33: .*less than or equal to 31"),
        (4096, [("denoise", {})], r"'denoise' takes frames of at most 1048576 pixels, the input is 4096×4096; make the input"),
    ],
)  # fmt: skip
def test_what_is_beyond_a_limit_is_refused_with_the_value_the_limit_and_the_remedy(
    size: int, steps: list[Named], message: str
) -> None:
    preprocess = tuple(Step(name=name, parameters=parameters) for name, parameters in steps)
    spec = Input(height=size, width=size, preprocess=preprocess)
    with pytest.raises(BundleError, match=message):
        apply_steps(np.zeros((1, 1, 3), np.uint8), spec=spec)


def test_a_grey_input_has_no_blue_to_replace() -> None:
    with pytest.raises(BundleError, match="replaces = 'blue', but a grey input has one channel; say 'all'"):
        stepped(("vessels", {"replaces": "blue"}), color="gray")
