"""The files of an archive, in a folder or an object store, and how their bytes are had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, fs

from service.errors import MareyError


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

    def files(self, *, match: Sequence[str] = (), but: Sequence[Location] = ()) -> list[File]:
        """All below it, by path, or those whose names are as one of `match`, such as *.mp4. What is hidden, or in `but`, is left out.

        Raises MareyError where there is no such folder.
        """
        try:
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True))
        except (ArrowException, OSError) as error:
            raise MareyError(f"{self.path} cannot be listed as a folder: {_short(error)}; name another") from error
        below = len(self.path) + 1
        others = tuple(each.path for each in but if each.filesystem == self.filesystem)
        return sorted(
            (
                File(each.path, each.size, (each.mtime_ns or 0) // 1000)
                for each in found
                if each.type == fs.FileType.File
                and not _hidden(each.path[below:])
                and not each.path.startswith(others)
                and (not match or any(fnmatch(each.base_name, pattern) for pattern in match))
            ),
            key=lambda file: file.path,
        )

    def read(self, path: str) -> bytes:
        """One file of this file system. Raises MareyError where it cannot be read."""
        try:
            with self.filesystem.open_input_stream(path) as stream:
                data: bytes = stream.read()
        except (ArrowException, OSError) as error:
            raise MareyError(f"{path} cannot be read: {_short(error)}") from error
        return data


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
