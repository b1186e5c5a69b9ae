import cv2
import numpy as np
import pytest

from service.bundle.manifest import Input, Resize, Step
from service.errors import BundleError
from service.media.preprocess import fit, scale

RNG = np.random.default_rng(2)


def test_shrinking_averages_areas() -> None:
    picture = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    blocks = picture.reshape(20, 3, 30, 3, 3).mean(axis=(1, 3))
    assert np.abs(scale(picture, width=30, height=20) - blocks).max() <= 1


@pytest.mark.data
def test_halving_first_changes_a_large_photo_by_less_than_a_level(photo: bytes) -> None:
    picture = cv2.resize(cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR), (1921, 1081))
    exact = cv2.resize(picture, (224, 224), interpolation=cv2.INTER_AREA)
    assert np.abs(scale(picture, width=224, height=224).astype(int) - exact).mean() < 1


def test_growing_interpolates() -> None:
    picture = np.array([[0, 100]], np.uint8)
    grown = scale(picture, width=4, height=1)
    assert grown.tolist() == [[0, 25, 75, 100]]


def test_an_axis_that_shrinks_averages_even_where_the_other_grows() -> None:
    columns = np.tile(np.array([0, 255], np.uint8), (10, 50))  # [10, 100], finest stripes
    assert np.abs(scale(columns, width=10, height=40).astype(int) - 127).max() <= 1
    assert np.abs(scale(columns.T.copy(), width=40, height=10).astype(int) - 127).max() <= 1


@pytest.mark.parametrize(("h", "w"), [(100, 200), (200, 100), (37, 301), (8, 8), (500, 499)])
@pytest.mark.parametrize("color", ["rgb", "gray"])
@pytest.mark.parametrize("resize", [Resize(), Resize(rule="crop", short_side=56), Resize(rule="pad")])
def test_every_rule_gives_the_size_that_the_manifest_names(h: int, w: int, color: str, resize: Resize) -> None:
    spec = Input.model_validate({"height": 40, "width": 48, "color": color, "resize": resize})
    for picture in (RNG.integers(0, 256, (h, w, 3), dtype=np.uint8), RNG.integers(0, 256, (h, w), dtype=np.uint8)):
        frame = fit(picture, spec=spec)
        assert frame.shape == (40, 48, spec.channels)
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous


def test_crop_keeps_the_centre_and_the_shape() -> None:
    picture = np.zeros((100, 300, 3), np.uint8)
    picture[:, 100:200] = 255
    frame = fit(picture, spec=Input(height=50, width=50, resize=Resize(rule="crop", short_side=50)))
    assert frame.min() == 255


def test_pad_shows_all_of_the_picture_between_black_bars() -> None:
    frame = fit(np.full((50, 100, 3), 200, np.uint8), spec=Input(height=64, width=64, resize=Resize(rule="pad")))
    assert (frame[:16] == 0).all()
    assert (frame[16:48] == 200).all()
    assert (frame[48:] == 0).all()


def test_pixels_wider_than_high_are_shown_as_wide_as_they_are() -> None:
    frame = fit(
        np.full((100, 100, 3), 200, np.uint8),
        spec=Input(height=64, width=64, resize=Resize(rule="pad")),
        pixel_aspect=2.0,
    )
    assert (frame[16:48] == 200).all()
    assert (frame[:16] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1_000_000, 3), (1_000_000, 1, 3)])
@pytest.mark.parametrize("rule", ["squash", "crop", "pad"])
def test_a_thread_of_a_million_pixels_costs_no_memory(shape: tuple[int, ...], rule: str) -> None:
    resize = Resize(rule=rule, short_side=64 if rule == "crop" else None)  # type: ignore[arg-type]
    frame = fit(np.full(shape, 90, np.uint8), spec=Input(height=64, width=64, resize=resize))
    assert frame.shape == (64, 64, 3)
    assert frame.max() == 90


def test_colours_come_out_in_the_order_red_green_blue_whatever_order_came_in() -> None:
    red = np.zeros((10, 10, 3), np.uint8)
    red[..., 0] = 255
    spec = Input(height=4, width=4)
    assert (fit(red, spec=spec) == [255, 0, 0]).all()
    assert (fit(red[..., ::-1], spec=spec, order="bgr") == [255, 0, 0]).all()
    grey = Input(height=4, width=4, color="gray")
    assert set(fit(red, spec=grey).ravel()) == set(fit(red[..., ::-1].copy(), spec=grey, order="bgr").ravel()) == {76}


def test_a_grey_picture_becomes_three_equal_channels() -> None:
    frame = fit(RNG.integers(0, 256, (20, 20), dtype=np.uint8), spec=Input(height=8, width=8))
    assert (frame[..., 0] == frame[..., 1]).all()
    assert (frame[..., 0] == frame[..., 2]).all()


def test_an_unknown_step_is_named() -> None:
    spec = Input(height=8, width=8, preprocess=(Step(name="clahe", version=3),))
    with pytest.raises(
        BundleError, match=r"'clahe' version 3 is unknown here \(known: clahe version 1, denoise version 1"
    ):
        fit(np.zeros((8, 8, 3), np.uint8), spec=spec)
