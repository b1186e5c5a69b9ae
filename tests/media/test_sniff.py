import gzip
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.errors import DecodeFailed, EmptyFile, UnsupportedMedia
from service.media.frames import ImageInfo
from service.media.sniff import image_info, video_container
from tests.media.conftest import Hostile

Encode = Callable[..., bytes]
# Pillow warns of odd tags before it gives up on them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
NOT_VIDEOS = {"anim.webp", "concat_playlist.mp4", "gzip_named.mp4", "hls_playlist.mp4", "jpeg_named.mp4"}


@pytest.mark.data
def test_every_video_of_the_hostile_folder_is_known_by_its_content(hostile: dict[str, Hostile]) -> None:
    for name, row in hostile.items():
        head = row.path.read_bytes()[:4096]
        if name in NOT_VIDEOS:
            with pytest.raises(UnsupportedMedia):
                video_container(head)
        else:
            assert video_container(head)


@pytest.mark.data
def test_a_name_means_nothing(hostile: dict[str, Hostile]) -> None:
    assert video_container(hostile["webm_named.mp4"].path.read_bytes()) == "Matroska/WebM"
    assert video_container(hostile["h264.ts"].path.read_bytes()) == "MPEG-TS"
    assert video_container(hostile["raw_stream.h264"].path.read_bytes()) == "H.264 stream"
    assert video_container(hostile["mpeg1.mpg"].path.read_bytes()) == "MPEG-PS"


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/secret\n", "an HLS playlist"),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "an FFmpeg playlist"),
        (b"\xef\xbb\xbf#EXTM3U\n", "text"),
        (b"<?xml version='1.0'?><MPD></MPD>", "text"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "text"),
        (b"BMP is not what this text is, though it starts so", "text"),
        ("naïve, cut inside a character: é".encode()[:-1], "text"),
        (b"GG" * 300, "text"),
        (gzip.compress(b"video", mtime=0), "a gzip archive"),
        (b"%PDF-1.7", "a PDF document"),
        (b"ID3\x04" + bytes(20), "audio"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio"),
        (b"\0\0\0\x20ftypM4A ", "audio"),
        (b"\0\0\0\x20ftypavif", "a HEIF or AVIF picture"),
        (bytes(100), "of an unknown kind"),
        (b"\0\0\1", "of an unknown kind"),
        (b"\x80", "of an unknown kind"),
    ],
)
def test_what_is_neither_image_nor_video_is_refused_by_name(head: bytes, named: str) -> None:
    with pytest.raises(UnsupportedMedia, match=named):
        video_container(head)
    with pytest.raises(UnsupportedMedia, match=named):
        image_info(head)


def test_an_archive_is_refused() -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"x")
    with pytest.raises(UnsupportedMedia, match="ZIP"):
        image_info(buffer.getvalue())


def test_no_bytes_are_said_to_be_no_bytes() -> None:
    for function in (image_info, video_container):
        with pytest.raises(EmptyFile, match="0 bytes"):
            function(b"")


@pytest.mark.data
def test_a_file_at_the_wrong_endpoint_is_sent_to_the_right_one(hostile: dict[str, Hostile], photo: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="/classify/image"):
        video_container(photo)
    for name in ("h264.mp4", "anim.gif", "mjpeg.avi", "h264.ts"):
        with pytest.raises(UnsupportedMedia, match="/classify/video"):
            image_info(hostile[name].path.read_bytes())


def test_what_stands_behind_a_webp_does_not_change_its_size(encode: Encode) -> None:
    picture = encode(Image.new("RGB", (300, 200)), "WEBP")
    trailer = b"VP8X" + (10).to_bytes(4, "little") + bytes(10)  # a canvas of one pixel
    assert image_info(picture + trailer).width == 300
    # … nor does a second header within the stated length.
    longer = bytearray(picture + trailer)
    longer[4:8] = (len(longer) - 8).to_bytes(4, "little")
    assert image_info(bytes(longer)).width == 300


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_an_image_is_measured_from_its_header(kind: str, encode: Encode, patches: np.ndarray) -> None:
    assert image_info(encode(patches, kind)) == ImageInfo(128, 96, kind, 1)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_all_three_headers_of_webp_are_read(encode: Encode, *, lossless: bool, alpha: bool) -> None:
    picture = Image.new("RGBA" if alpha else "RGB", (300, 7))
    assert image_info(encode(picture, "WEBP", lossless=lossless)) == ImageInfo(300, 7, "WEBP", 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_the_size_is_of_the_stored_pixels_and_the_orientation_is_the_tag(
    kind: str, orientation: int, encode: Encode, patches: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert image_info(encode(patches, kind, exif=exif)) == ImageInfo(128, 96, kind, orientation)


def test_an_orientation_that_is_none_counts_as_upright(encode: Encode, patches: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert image_info(encode(patches, "JPEG", exif=exif)).orientation == 1


def test_a_webp_that_claims_a_huge_canvas_is_measured_without_allocating_it(encode: Encode) -> None:
    data = bytearray(encode(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP"))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (16_000 - 1).to_bytes(3, "little") * 2
    assert image_info(bytes(data)) == ImageInfo(16_000, 16_000, "WEBP", 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_header_that_breaks_off_is_a_client_error(kind: str, encode: Encode, patches: np.ndarray) -> None:
    data = encode(patches, kind)
    for length in (18, 20, 26):
        with pytest.raises(DecodeFailed, match="broken"):
            image_info(data[:length])


def test_headers_full_of_noise_raise_nothing_but_client_errors(encode: Encode, patches: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        good = encode(patches, kind)
        for _ in range(150):
            data = bytearray(good)
            for at in rng.integers(0, min(len(data), 120), 6):
                data[at] = rng.integers(0, 256)
            try:
                info = image_info(bytes(data))
            except (DecodeFailed, UnsupportedMedia):
                continue
            assert info.width > 0
            assert info.height > 0
            assert 1 <= info.orientation <= 8


def test_a_tiff_that_lists_a_million_tags_is_refused() -> None:
    data = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65_535) + bytes(64)
    with pytest.raises(DecodeFailed):
        image_info(data)
