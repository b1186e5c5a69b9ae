import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from service.bundle.manifest import Input, Resize
from service.errors import DecodeFailed, EmptyFile, TooManyPixels, UnsupportedMedia
from service.media.image import decode_image
from service.media.limits import Limits
from tests.media.conftest import BLUE, GREEN, RED

Encode = Callable[..., bytes]
# Pillow warns of odd tags before it gives up on them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
FULL = Input(height=96, width=128)
LIMITS = Limits()


def pixels(data: bytes, spec: Input = FULL, limits: Limits = LIMITS) -> np.ndarray:
    return decode_image(data, spec=spec, limits=limits).clip.frames[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("color", [RED, GREEN, BLUE])
def test_red_is_red(kind: str, color: tuple[int, int, int], encode: Encode) -> None:
    frame = pixels(encode(Image.new("RGB", (128, 96), color), kind))
    assert np.abs(frame.astype(int) - color).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_all_eight_orientations_come_out_upright(
    kind: str, orientation: int, encode: Encode, patches: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(patches, kind, exif=exif, **options)
    stored = np.asarray(Image.open(io.BytesIO(encode(patches, kind, **options))).convert("RGB"))
    # By the EXIF standard: where the stored first row and first column belong.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert (upright == np.asarray(reference)).all()
    decoded = decode_image(data, spec=Input(height=upright.shape[0], width=upright.shape[1]), limits=LIMITS)
    assert (decoded.clip.frames[0] == upright).all()
    assert decoded.clip.source.width == 128


@pytest.mark.data
def test_a_photo_has_the_pixels_that_pillow_decodes(photo: bytes) -> None:
    reference = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))
    assert (pixels(photo, Input(height=reference.shape[0], width=reference.shape[1])) == reference).all()


@pytest.mark.data
def test_a_large_photo_decoded_at_a_fraction_differs_little_from_all_of_its_pixels(
    photo: bytes, encode: Encode
) -> None:
    large = Image.open(io.BytesIO(photo)).convert("RGB").resize((2400, 1800), Image.Resampling.BICUBIC)
    spec = Input(height=128, width=128)
    whole = cv2.resize(np.asarray(large), (128, 128), interpolation=cv2.INTER_AREA)
    difference = np.abs(pixels(encode(large, "JPEG", quality=95), spec).astype(int) - whole)
    assert difference.mean() < 1.5


def png_bomb(width: int, height: int) -> bytes:
    """A whole, valid PNG of one colour: a few KB a hundred million pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row * 1000) for _ in range(height // 1000)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header_with_size_limit_and_remedy() -> None:
    bomb = png_bomb(30_000, 30_000)
    assert len(bomb) < 200_000
    with pytest.raises(TooManyPixels, match=r"30000×30000 = 900,000,000 pixels, at most 50,000,000.*scale it down"):
        pixels(bomb)


def test_the_pixel_limit_is_exact(encode: Encode, patches: np.ndarray) -> None:
    data = encode(patches, "PNG")
    pixels(data, limits=Limits(max_pixels=128 * 96))
    with pytest.raises(TooManyPixels):
        pixels(data, limits=Limits(max_pixels=128 * 96 - 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.5, 0.8, 0.95])
def test_a_file_that_breaks_off_is_refused_not_filled_up(kind: str, part: float, encode: Encode) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    data = encode(noise, kind)
    with pytest.raises(DecodeFailed):
        pixels(data[: int(len(data) * part)])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_refused_even_if_its_thumbnail_has_one(encode: Encode, *, progressive: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9" * 8  # an end marker inside the header, as a thumbnail's
    data = encode(noise, "JPEG", exif=exif, progressive=progressive)
    assert pixels(data).shape == (96, 128, 3)
    assert pixels(data + b"trailing bytes, as some cameras write").shape == (96, 128, 3)
    for cut in (2, 50, len(data) // 3):
        with pytest.raises(DecodeFailed, match="breaks off"):
            pixels(data[:-cut])


def test_a_palette_keeps_its_colours(encode: Encode) -> None:
    image = Image.new("P", (128, 96), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert (pixels(encode(image, "PNG")) == RED).all()


def test_what_is_transparent_shows_white_and_what_hides_under_it_does_not_show(encode: Encode) -> None:
    assert (pixels(encode(Image.new("RGBA", (128, 96), (255, 0, 0, 0)), "PNG")) == 255).all()
    half = pixels(encode(Image.new("RGBA", (128, 96), (255, 0, 0, 128)), "PNG"))
    assert np.abs(half.astype(int) - (255, 127, 127)).max() <= 1
    assert (pixels(encode(Image.new("LA", (128, 96), (90, 255)), "PNG")) == 90).all()
    image = Image.new("P", (128, 96), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert (pixels(encode(image, "PNG", transparency=1)) == 255).all()


def test_sixteen_bits_are_scaled_not_clipped(encode: Encode) -> None:
    ramp = np.tile(np.linspace(0, 65_535, 128).astype(np.uint16), (96, 1))
    frame = pixels(encode(Image.fromarray(ramp), "PNG"))
    assert (frame[..., 0] == (ramp >> 8)).all()
    assert (frame[..., 0] == frame[..., 2]).all()


def test_sixteen_bits_a_channel_keep_their_colours() -> None:
    red = np.zeros((96, 128, 3), np.uint16)
    red[..., 2] = 65_535  # OpenCV writes BGR
    good, data = cv2.imencode(".png", red)
    assert good
    assert (pixels(data.tobytes()) == RED).all()


def test_cmyk_becomes_rgb(encode: Encode) -> None:
    frame = pixels(encode(Image.new("RGB", (128, 96), RED).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(frame.astype(int) - RED).max() <= 4


def test_numbers_without_a_scale_are_refused(encode: Encode) -> None:
    with pytest.raises(UnsupportedMedia, match="32-bit"):
        pixels(encode(Image.new("F", (128, 96), 0.5), "TIFF"))


def test_a_grey_model_gets_one_channel_whatever_the_file_holds(encode: Encode, patches: np.ndarray) -> None:
    spec = Input(height=96, width=128, color="gray")
    expected = np.asarray(Image.fromarray(patches).convert("L"))
    for kind in ("PNG", "BMP"):
        frame = pixels(encode(patches, kind), spec)
        assert frame.shape == (96, 128, 1)
        assert np.abs(frame[..., 0].astype(int) - expected).max() <= 1
    assert (pixels(encode(expected, "PNG"), spec)[..., 0] == expected).all()


def test_an_animation_says_that_only_its_first_picture_was_seen(encode: Encode) -> None:
    first, second = Image.new("RGB", (128, 96), RED), Image.new("RGB", (128, 96), BLUE)
    for kind in ("PNG", "WEBP", "TIFF"):
        data = encode(first, kind, save_all=True, append_images=[second])
        clip = decode_image(data, spec=FULL, limits=LIMITS).clip
        assert np.abs(clip.frames[0].astype(int) - RED).max() <= 3
        assert clip.warnings == ("the file holds 2 pictures; only the first was looked at",)


def test_an_image_is_a_clip_of_one_frame_with_its_costs(encode: Encode, patches: np.ndarray) -> None:
    decoded = decode_image(
        encode(patches, "JPEG"), spec=Input(height=32, width=32, resize=Resize(rule="pad")), limits=LIMITS
    )
    assert decoded.clip.frames.shape == (1, 32, 32, 3)
    assert decoded.clip.indices == (0,)
    assert decoded.clip.times_s == (0.0,)
    assert decoded.decode_ms > 0
    assert decoded.preprocess_ms > 0


def test_damage_anywhere_in_a_file_raises_nothing_but_client_errors(encode: Encode, patches: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        good = encode(patches, kind)
        for _ in range(60):
            data = bytearray(good)
            for at in rng.integers(0, len(data), 8):
                data[at] = rng.integers(0, 256)
            try:
                frame = pixels(bytes(data))
            except (DecodeFailed, UnsupportedMedia, TooManyPixels):
                continue
            assert frame.shape == (96, 128, 3)


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(EmptyFile):
        pixels(b"")
