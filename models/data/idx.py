"""MNIST's own files: images and their labels as two idx files each, packed by gzip or not.

An idx file is 0, 0, the type (8: unsigned byte), the number of axes, each axis as a big-endian 32-bit number, then the values
row by row (LeCun, Cortes, Burges, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError

_UBYTE = 8
_PARTS = {"train": ("train",), "test": ("t10k", "test")}
_VAL_SHARE = 1 / 12  # 5,000 of MNIST's 60,000
_SEED = 0


def is_idx(path: Path) -> bool:
    """Whether `path` is called as an idx file is: train-images-idx3-ubyte.gz, train-images.idx3-ubyte."""
    return path.name.removesuffix(".gz").endswith(("-idx3-ubyte", ".idx3-ubyte"))


def idx_parts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The files of images and labels for `train` and `test`, as far as `folder` holds them; raises DataError for half a pair."""
    found = {}
    for part, prefixes in _PARTS.items():
        images, labels = (_file(folder, prefixes, kind) for kind in ("images{}idx3-ubyte", "labels{}idx1-ubyte"))
        if images is not None and labels is not None:
            found[part] = (images, labels)
        elif images is not None or labels is not None:
            there = images or labels
            assert there is not None
            missing = "labels" if labels is None else "images"
            raise DataError(f"{there} has no {missing} beside it; copy the data set again")
    return found


def read_idx_labels(images: Path, labels: Path) -> NDArray[np.uint8]:
    """`[N]`: the classes of `images`, of which the header alone is read. Raises DataError where the numbers of both differ."""
    with _opened(images) as file:
        count = _header(images, file, axes=3)[0]
    found = _read(labels, axes=1)
    if len(found) != count:
        raise DataError(f"{labels} holds {len(found)} labels for the {count} images of {images.name}; copy both again")
    return found


def read_idx_images(path: Path) -> NDArray[np.uint8]:
    """`[N, H, W]`, read once in a process as long as the file stays as it was. Raises DataError."""
    status = path.stat()
    return _kept_images(path, status.st_mtime_ns, status.st_size)


def held_back(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of `classes` `[N]` are for val: a twelfth, of each class its share, the same whenever the labels are the same."""
    count = round(len(classes) * _VAL_SHARE)
    random = np.random.default_rng(_SEED)
    held = np.zeros(len(classes), bool)
    values, sizes = np.unique(classes, return_counts=True)
    for value, size in zip(values, _rounded(sizes * count / len(classes), total=count), strict=True):
        held[random.permutation(np.flatnonzero(classes == value))[:size]] = True
    return held


def _rounded(shares: NDArray[np.float64], *, total: int) -> NDArray[np.int64]:
    """`shares` as whole numbers that sum up to `total`: those with the largest remainders are rounded up."""
    whole = np.floor(shares).astype(np.int64)
    order = np.argsort(whole - shares, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole


def _file(folder: Path, prefixes: Sequence[str], kind: str) -> Path | None:
    names = [f"{prefix}-{kind.format(dot)}{packed}" for prefix in prefixes for dot in "-." for packed in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


@lru_cache(maxsize=4)  # MNIST's images are 47 and 8 MB
def _kept_images(path: Path, _mtime_ns: int, _size: int) -> NDArray[np.uint8]:
    images = _read(path, axes=3)
    images.flags.writeable = False
    return images


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]  # a GzipFile reads bytes


def _read(path: Path, *, axes: int) -> NDArray[np.uint8]:
    with _opened(path) as file:
        shape = _header(path, file, axes=axes)
        expected = int(np.prod(shape, dtype=np.int64))
        values = _bytes(path, file, -1)
    if len(values) != expected:
        raise DataError(
            f"{path} says {' × '.join(map(str, shape))} = {expected} bytes and holds {len(values)}; copy the file again"
        )
    return np.frombuffer(values, np.uint8).reshape(shape).copy()


def _header(path: Path, file: IO[bytes], *, axes: int) -> tuple[int, ...]:
    head = _bytes(path, file, 4 + 4 * axes)
    if head[:4] != bytes((0, 0, _UBYTE, axes)) or len(head) < 4 + 4 * axes:
        raise DataError(
            f"{path} starts with {head[:4].hex(' ') or 'nothing'}, an idx file of bytes with {axes} axes with 00 00 08 0{axes}; "
            "copy the file again"
        )
    shape = struct.unpack(f">{axes}I", head[4:])
    if 0 in shape:
        raise DataError(f"{path} says {' × '.join(map(str, shape))}, which is nothing; copy the file again")
    return shape


def _bytes(path: Path, file: IO[bytes], count: int) -> bytes:
    try:
        return file.read(count)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is damaged or breaks off ({error}); copy the file again") from None
