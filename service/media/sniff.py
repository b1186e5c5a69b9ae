"""What a file really is, by its first bytes: two allowlists, and a name for what is refused. File names are not asked.

Nothing is decoded here. What FFmpeg would take as a playlist (HLS, ffconcat, DASH, SDP) is text, and text is on neither
list: a playlist is a door through which an upload could make the server open other files and addresses.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from service.bundle.manifest import Task
from service.errors import DecodeFailed, EmptyFile, MareyError, UnsupportedMedia
from service.media.frames import ImageInfo

ORIENTATION = 0x0112  # the EXIF tag
IMAGES = "JPEG, PNG, WebP, BMP or TIFF"
VIDEOS = "MP4/MOV, Matroska/WebM, AVI, MPEG, H.264/HEVC streams, FLV, WMV, Ogg or GIF"
# What Pillow's readers are known to raise on damaged files.
BROKEN = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, struct.error)

_STILLS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis"}
_AUDIO_BRANDS = {b"M4A ", b"M4B ", b"M4P "}
_TOP_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"moof", b"styp", b"sidx"}
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_REFUSED = (
    (b"#EXTM3U", "an HLS playlist"),
    (b"ffconcat", "an FFmpeg playlist"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF", "a PDF document"),
    (b"ID3", "audio"),
    (b"fLaC", "audio"),
    (b"\xff\xfb", "audio"),
    (b"\xff\xf1", "audio"),
)


def image_info(data: bytes) -> ImageInfo:
    """Size, format and EXIF orientation by the header alone: a bomb of 30,000 × 30,000 pixels costs microseconds here.

    Raises EmptyFile, UnsupportedMedia (with the right endpoint for a video), DecodeFailed for a header that is broken.
    """
    kind = image_format(data[:64])
    if kind is None:
        container = _container(data[:4096])
        if container:
            raise UnsupportedMedia(f"the file is a video ({container}), not an image; post it to /classify/video")
        raise UnsupportedMedia(f"the file is {_describe(data[:4096])}, not an image; send {IMAGES}")
    try:
        if kind == "WEBP":
            return _webp_info(data)
        with open_image(data, kind) as image:
            orientation = _upright(_orientation(image))
            size = image.size
            if kind == "TIFF" and orientation >= 5:
                # Pillow states the upright size of a TIFF, and only of a TIFF.
                size = (image.height, image.width)
            return ImageInfo(*size, kind, orientation)
    except BROKEN as error:
        raise DecodeFailed(f"the {kind} header is broken ({error}); send the file again, or save it anew") from error


def task_of(data: bytes) -> Task:
    """Which endpoint takes `data`: what is no image is for the video endpoint to take or refuse."""
    try:
        image_info(data)
    except UnsupportedMedia:
        return "video"
    except MareyError:  # an image, if a broken one
        return "image"
    return "image"


def image_format(head: bytes) -> str | None:
    """JPEG, PNG, WEBP, BMP or TIFF by the first bytes; None for anything else. Raises EmptyFile on none."""
    if not head:
        raise EmptyFile("the file is empty: it has 0 bytes; check that it was read before it was sent")
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # A bitmap says where its pixels start, within a header of known lengths: two letters alone would fit plain text.
    if (
        head[:2] == b"BM"
        and len(head) >= 18
        and struct.unpack_from("<I", head, 14)[0] in {12, 16, 40, 52, 56, 64, 108, 124}
    ):
        return "BMP"
    if head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return "TIFF"
    return None


def open_image(data: bytes, kind: str) -> ImageFile.ImageFile:
    """Pillow's lazy reader of exactly this format: `Image.open` would try others and warn of sizes that Limits checks."""
    plugins: dict[str, type[ImageFile.ImageFile]] = {
        "JPEG": JpegImagePlugin.JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
    }
    if kind == "WEBP":
        from PIL import WebPImagePlugin  # noqa: PLC0415 - its constructor allocates the canvas: only after _webp_info

        return WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    return plugins[kind](io.BytesIO(data))


def jpeg_mode(data: bytes) -> str:
    """Pillow's name of a JPEG's colour model: `L`, `RGB`, `CMYK` …, from the header."""
    with open_image(data, "JPEG") as image:
        return image.mode


def video_container(head: bytes) -> str:
    """The container's name by the first bytes (4,096 are plenty). Raises EmptyFile, or UnsupportedMedia for all else."""
    if not head:
        raise EmptyFile("the file is empty: it has 0 bytes; check that it was read before it was sent")
    container = _container(head)
    if container:
        return container
    kind = image_format(head)
    if kind:
        raise UnsupportedMedia(f"the file is an image ({kind}), not a video; post it to /classify/image")
    raise UnsupportedMedia(f"the file is {_describe(head)}, not a video; send {VIDEOS}")


def _container(head: bytes) -> str | None:
    if head[4:8] in _TOP_BOXES:
        brand = head[8:12] if head[4:8] == b"ftyp" else b""
        return None if brand in _STILLS | _AUDIO_BRANDS else "MP4/MOV"
    for magic, name in (
        (b"\x1a\x45\xdf\xa3", "Matroska/WebM"),
        (b"FLV\x01", "FLV"),
        (b"OggS", "Ogg"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (_ASF, "ASF/WMV"),
        (b"DKIF", "IVF"),
    ):
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] in {b"AVI ", b"AVIX"}:
        return "AVI"
    if _is_transport_stream(head):
        return "MPEG-TS"
    return _elementary_stream(head)


def _is_transport_stream(head: bytes) -> bool:
    # Packets of 188 bytes, or of 192 with a time in front (Blu-ray), each of which starts with 0x47, a letter G; its fourth
    # byte says whether it holds a payload, and no packet holds nothing: text of many a G is not one.
    return any(
        len(head) >= start + 3 * size
        and all(head[start + i * size] == 0x47 and head[start + i * size + 3] & 0x30 for i in range(3))
        for start, size in ((0, 188), (4, 192))
    )


def _elementary_stream(head: bytes) -> str | None:
    # A start code is 00 00 01, after any number of zero bytes: allow the one that Annex B recommends.
    at = 3 if head[:3] == b"\0\0\1" else 4 if head[:4] == b"\0\0\0\1" else None
    if at is None or len(head) < at + 2:
        return None
    first, second = head[at], head[at + 1]
    if first == 0xBA:
        return "MPEG-PS"
    if first == 0xB3:
        return "MPEG video stream"
    if first in {0x40, 0x42, 0x44, 0x46} and second == 0x01:
        return "HEVC stream"
    # Access unit delimiter, SEI, sequence parameters: what a stream that can be decoded starts with.
    return "H.264 stream" if first & 0x80 == 0 and first & 0x1F in {6, 7, 9} else None


def _describe(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return "audio" if head[8:12] in _AUDIO_BRANDS else "a HEIF or AVIF picture"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "audio"
    for magic, name in _REFUSED:
        if head.startswith(magic):
            return name
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The head may end inside a character.
        if error.start < len(head) - 3:
            return "of an unknown kind"
        text = head[: error.start].decode("utf-8")
    return "text" if text and "\0" not in text else "of an unknown kind"


def _orientation(image: ImageFile.ImageFile) -> object:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2.get(ORIENTATION)
    if image.format != "PNG":
        return image.getexif().get(ORIENTATION)
    # PNG: getexif() would decode the picture, for the tag may stand behind it; take what stands before.
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return exif.get(ORIENTATION)


def _upright(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _webp_info(data: bytes) -> ImageInfo:
    # Pillow's WebP reader allocates the whole canvas when it opens a file: the chunks are read here instead.
    width = height = 0
    orientation: object = 1
    for name, chunk in _riff_chunks(data):
        if name == b"VP8X" and not width and len(chunk) >= 10:
            width = 1 + int.from_bytes(chunk[4:7], "little")
            height = 1 + int.from_bytes(chunk[7:10], "little")
        elif name == b"VP8 " and not width and chunk[3:6] == b"\x9d\x01\x2a":
            width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", chunk, 6))
        elif name == b"VP8L" and not width and chunk[:1] == b"\x2f":
            (bits,) = struct.unpack_from("<I", chunk, 1)
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif name == b"EXIF":
            exif = Image.Exif()
            exif.load(chunk)
            orientation = exif.get(ORIENTATION)
    if not (width and height):
        raise ValueError("no chunk states the picture's size")
    return ImageInfo(width, height, "WEBP", _upright(orientation))


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))  # decoders do not look past it, either
    while at + 8 <= end:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        yield name, data[at + 8 : at + 8 + (size if name in {b"EXIF", b"VP8X"} else min(size, 16))]
        at += 8 + size + (size & 1)
