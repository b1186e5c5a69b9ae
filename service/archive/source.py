"""The files of an archive, in a folder or an object store, and how their bytes are had."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, fs

from service.errors import MareyError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class File:
    """`path` as its file system has it; `size` in bytes, `modified` in microseconds since 1970."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file system: of this machine, or of a store such as s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."""

    filesystem: Any
    path: str

    @classmethod
    def of(cls, name: str) -> Location:
        """Raises MareyError where there is no such file system."""
        try:
            if "://" not in name:
                return cls(fs.LocalFileSystem(), str(Path(name).expanduser().absolute()))
            filesystem, path = fs.FileSystem.from_uri(name)
        except (ArrowException, ValueError, OSError) as error:
            raise MareyError(
                f"{name} cannot be reached: {_short(error)}; name a folder, or a store such as s3://BUCKET/PREFIX"
            ) from error
        return cls(filesystem, path.rstrip("/"))

    def beside(self, suffix: str) -> Location:
        """The same place with `suffix` at the end of its name."""
        return Location(self.filesystem, self.path + suffix)

    def within(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path}/{name}")

    @property
    def exists(self) -> bool:
        return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    @property
    def is_folder(self) -> bool:
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.Directory)

    def files(self, *, match: Sequence[str] = (), but: Sequence[Location] = ()) -> list[File]:
        """All below it, by path, or those whose names are as one of `match`, such as *.mp4. What is hidden is left out, and

        what `but` are the results of. Links to files count, links to folders are not followed: they may lead anywhere.

        Raises MareyError where there is no such folder.
        """
        own = tuple(each.path for each in but if each.filesystem == self.filesystem)
        found = _walked(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else self._selected()
        below = len(self.path) + 1
        return sorted(
            (
                file
                for file in found
                if not _hidden(file.path[below:])
                and not any(file.path == each or file.path.startswith(f"{each}.parts/") for each in own)
                and (not match or any(fnmatch(file.path.rpartition("/")[2], pattern) for pattern in match))
            ),
            key=lambda file: file.path,
        )

    def _selected(self) -> list[File]:
        try:
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True))
        except (ArrowException, OSError) as error:
            raise _unlisted(self.path, error) from error
        return [
            File(each.path, each.size, (each.mtime_ns or 0) // 1000) for each in found if each.type == fs.FileType.File
        ]

    def read(self, path: str) -> bytes:
        """One file of this file system. Raises MareyError where it cannot be read."""
        try:
            with self.filesystem.open_input_stream(path) as stream:
                data: bytes = stream.read()
        except (ArrowException, OSError) as error:
            raise MareyError(f"{path} cannot be read: {_short(error)}") from error
        return data


def _walked(folder: str) -> Iterator[File]:
    """Of this machine. A name that is no text cannot be read by what we tell of it, and has a row that says so."""
    if not os.path.isdir(folder):  # noqa: PTH112
        raise _unlisted(folder, NotADirectoryError("it is no folder that is there"))

    def left_out(error: OSError) -> None:
        logger.warning("%s is left out: %s", error.filename, error.strerror)

    for parent, _, names in os.walk(folder, onerror=left_out):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118
            try:
                found = os.stat(path)  # noqa: PTH116
            except OSError:
                continue  # a link to nothing, or gone meanwhile
            if stat.S_ISREG(found.st_mode):
                told = os.fsencode(path).decode(errors="backslashreplace")
                yield File(told, found.st_size, found.st_mtime_ns // 1000)


def _unlisted(path: str, error: Exception) -> MareyError:
    return MareyError(f"{path} cannot be listed as a folder: {_short(error)}; name another")


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
