"""Damaged uploads by the thousand, against a real server: `python -m tests.e2e.mutate --count 3000`.

Each is a small file of some kind with bits flipped, bytes cut, spliced, repeated or overwritten, numbers in its header
replaced by extreme ones, or the form around it damaged. The same seed gives the same uploads.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import psutil
from PIL import Image

BOUNDARY = b"marey-mutated"
LARGEST_SEED = 32_768
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 60_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Upload:
    name: str
    path: str
    body: bytes
    boundary: bytes = BOUNDARY


@dataclass
class Told:
    """What the service said: statuses and codes, the uploads that drew a 5xx or no answer, and what it holds."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    grown_bytes: int = 0
    grown_service_bytes: int = 0
    workers_lost: int = 0


def images() -> Iterator[tuple[str, bytes]]:
    """A small file of every image format that is taken, in its variants."""
    rng = np.random.default_rng(3)
    picture = Image.fromarray(np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: list[tuple[str, str, Image.Image, dict[str, object]]] = [
        ("baseline.jpg", "JPEG", picture, {}),
        ("progressive.jpg", "JPEG", picture, {"progressive": True, "exif": turned}),
        ("grey.jpg", "JPEG", picture.convert("L"), {}),
        ("cmyk.jpg", "JPEG", picture.convert("CMYK"), {}),
        ("rgb.png", "PNG", picture, {"exif": turned}),
        ("palette.png", "PNG", picture.convert("P"), {"transparency": 3}),
        ("16bit.png", "PNG", picture.convert("L").convert("I;16"), {}),
        ("alpha.png", "PNG", picture.convert("RGBA"), {}),
        ("lossy.webp", "WEBP", picture, {}),
        ("lossless.webp", "WEBP", picture.convert("RGBA"), {"lossless": True, "exif": turned}),
        ("moving.webp", "WEBP", picture, {"save_all": True, "append_images": [picture.rotate(90)] * 2}),
        ("plain.bmp", "BMP", picture, {}),
        ("palette.bmp", "BMP", picture.convert("P"), {}),
        ("plain.tiff", "TIFF", picture, {}),
        ("lzw.tiff", "TIFF", picture, {"compression": "tiff_lzw"}),
        ("deflate.tiff", "TIFF", picture.convert("L"), {"compression": "tiff_deflate"}),
        ("jpeg.tiff", "TIFF", picture, {"compression": "jpeg"}),
        ("pages.tiff", "TIFF", picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
    ]
    for name, kind, image, options in kinds:
        image.save(buffer := io.BytesIO(), kind, **options)
        yield name, buffer.getvalue()


def videos() -> Iterator[tuple[str, bytes]]:
    """A small file of every codec that OpenCV writes by itself."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # it falls back to other tags, and says so
    rng = np.random.default_rng(4)
    frames = [
        np.kron(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8)) for _ in range(6)
    ]
    kinds = [(".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "FFV1"), (".webm", "VP80"), (".webm", "VP90"), (".mov", "MJPG"), (".ts", "mp2v"), (".mpg", "mpg1"), (".flv", "FLV1"), (".wmv", "WMV2")]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for suffix, codec in kinds:
            path = Path(folder) / f"{codec}{suffix}"
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25.0, (64, 48))
            if not writer.isOpened():
                continue
            for frame in frames:
                writer.write(frame)
            writer.release()
            yield path.name, path.read_bytes()


def seeds(data: Path | None) -> dict[str, tuple[str, bytes]]:
    """File name → the endpoint that it is for, and its bytes: made ones, and the small ones of the data sets."""
    found = {name: ("/classify/image", content) for name, content in images()}
    found |= {name: ("/classify/video", content) for name, content in videos()}
    for path in sorted((data / "hostile_videos").glob("*/*")) if data is not None else ():
        if path.stat().st_size <= LARGEST_SEED:
            found[path.name] = ("/classify/video", path.read_bytes())
    return found


def uploads(files: dict[str, tuple[str, bytes]], *, count: int, seed: int) -> Iterator[Upload]:
    """`count` damaged uploads, always the same for the same files and seed."""
    rng = random.Random(seed)
    names = sorted(files)
    damages = [_flip, _flip_head, _cut, _splice, _lie, _lie, _repeat, _blank, _insert]
    for number in range(count):
        name = names[number % len(names)]
        path, content = files[name]
        damage = rng.choice(damages)
        content = damage(rng, content, files[rng.choice(names)][1])
        body = b"".join(
            (
                b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="../../etc/',
                name.encode(),
                b'"\r\nContent-Type: image/jpeg\r\n\r\n',
                content,
                b"\r\n--" + BOUNDARY + b"--\r\n",
            )
        )
        if rng.random() < 0.04:
            damage = rng.choice([_flip_head, _cut, _lie])
            body = damage(rng, body, b"")
        if path == "/classify/video" and rng.random() < 0.3:
            path = f"{path}?window_s={rng.choice((0.1, 1, 7))}&frames=4"
        if rng.random() < 0.05:
            path = "/classify/image" if path.startswith("/classify/video") else "/classify/video"
        yield Upload(f"{number} {name} {damage.__name__[1:]}", path, body)


def _flip(rng: random.Random, data: bytes, _other: bytes, within: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 5, 20, 100))):
        changed[rng.randrange(min(len(changed), within or len(changed)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_head(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return _flip(rng, data, other, 128)


def _cut(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _lie(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    """Whole numbers of 2 or 4 bytes, of either byte order, most of them near the start."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        size = rng.choice((2, 4))
        at = rng.randrange(max(1, min(len(changed), rng.choice((64, 256, 1024, len(changed)))) - size))
        value = rng.choice(EXTREMES) & (1 << 8 * size) - 1
        changed[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))
    return bytes(changed)


def _repeat(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    at = rng.randrange(len(data))
    piece = data[at : at + rng.randrange(1, 2048)]
    return data[:at] + piece * rng.choice((2, 3, 8)) + data[at:]


def _blank(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.randrange(1, 512)
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def _insert(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 2, 3, 64))) + data[at:]


def post_all(url: str, wanted: Iterator[Upload], *, connections: int, pid: int) -> Told:
    """Send them over so many connections, each as soon as the last one is answered. `pid`: of the server."""
    told, lock = Told(), threading.Lock()
    warm = [next(wanted) for _ in range(40 * connections)]
    _post(url, iter(warm), told, lock, connections)
    server = psutil.Process(pid)
    told.seconds, before, workers, alone = 0.0, held(pid), _children(pid), server.memory_info().rss
    _post(url, wanted, told, lock, connections)
    told.grown_bytes, told.workers_lost = held(pid) - before, len(workers - _children(pid))
    told.grown_service_bytes = server.memory_info().rss - alone
    told.slowest = sorted(told.slowest)[-5:]
    return told


def held(pid: int) -> int:
    """Bytes of memory that the service and its decoders have in use, those that they share counted each time."""
    server = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (server, *server.children(recursive=True)))


def _children(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def _post(url: str, wanted: Iterator[Upload], told: Told, lock: threading.Lock, connections: int) -> None:
    threads = [threading.Thread(target=_client, args=(url, wanted, told, lock)) for _ in range(connections)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.seconds += time.monotonic() - began


def _client(url: str, wanted: Iterator[Upload], told: Told, lock: threading.Lock) -> None:
    address = urlsplit(url).netloc
    connection = http.client.HTTPConnection(address, timeout=60)
    while True:
        with lock:
            upload = next(wanted, None)
        if upload is None:
            break
        began = time.monotonic()
        status, code, fault = 0, "", ""
        try:
            status, code, fault = _ask(connection, upload)
        except (OSError, http.client.HTTPException) as error:
            fault = f"no answer: {error!r}"
            connection.close()
        with lock:
            told.statuses[status] += 1
            told.codes[code] += 1
            told.slowest.append((round(time.monotonic() - began, 3), upload.name))
            if fault:
                told.faults.append(f"{upload.name}: {fault}")
    connection.close()


def _ask(connection: http.client.HTTPConnection, upload: Upload) -> tuple[int, str, str]:
    kind = f"multipart/form-data; boundary={upload.boundary.decode()}"
    connection.request("POST", upload.path, upload.body, {"Content-Type": kind})
    response = connection.getresponse()
    text = response.read()
    answer = json.loads(text)
    if response.status == 200:
        return 200, "ok", "" if answer["predictions"] else "200 without an answer"
    code = answer.get("code", "")
    problem = response.headers["Content-Type"] == "application/problem+json" and code and answer.get("detail")
    fine = response.status < 500 and response.status != 429 and problem
    return response.status, code, "" if fine else f"{response.status} {text[:300]!r}"


def main(serving: Callable[..., object]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    files = seeds(options.data if options.data.is_dir() else None)
    wanted = uploads(files, count=options.count, seed=options.seed)
    with serving(MAREY_QUEUE_MS="60000", MAREY_DECODE_WORKERS="2", MAREY_LOG_LEVEL="warning") as running:  # type: ignore[attr-defined]
        told = post_all(running.url, wanted, connections=options.connections, pid=running.process.pid)
    report = [
        f"{options.count} uploads made of {len(files)} files, {told.seconds:.1f} s",
        f"statuses {dict(told.statuses)}",
        f"codes {dict(told.codes)}",
        f"memory grew by {told.grown_bytes / 2**20:.1f} MiB, {told.grown_service_bytes / 2**20:.1f} of them in the service; "
        f"decoders replaced: {told.workers_lost}",
        f"slowest {told.slowest}",
        *told.faults[:20],
    ]
    sys.stdout.write("\n".join(report) + "\n")
    return 1 if told.faults else 0


if __name__ == "__main__":
    from tests.conftest import serving as served

    sys.exit(main(served))
