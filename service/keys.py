"""API keys: who may ask, and as what. A file of hashes that `marey key` writes and a running service re-reads.

One key a line, `NAME ROLE sha256:HEX [rate=REQUESTS_A_SECOND]`; empty lines and those that begin with # say nothing.

# Note [Why SHA-256 will do]
Slow hashes protect passwords, which can be guessed. A key here is 256 random bits: nobody finds it by trying, whatever one
trial costs, and scrypt would cost the service more than the classification.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal, cast, get_args

from service.errors import InvalidKey, InvalidParameter, KeysError

logger = logging.getLogger(__name__)

Role = Literal["user", "admin"]

# Found by secret scanners, and by people who wonder what they have before them.
PREFIX = "marey_"
ANONYMOUS = "anonymous"
# A change of the file is seen within so many seconds.
REREAD_S = 1.0
_LONGEST_TOKEN = 256
_MAX_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_RATE = 1e6


@dataclass(frozen=True, slots=True)
class Key:
    """Who holds it, what they may do, the SHA-256 of the token, and their own rate, if any, in requests a second."""

    name: str
    role: Role
    digest: bytes
    rate: float | None = None

    @property
    def admin(self) -> bool:
        return self.role == "admin"

    def line(self) -> str:
        rate = "" if self.rate is None else f" rate={self.rate:g}"
        return f"{self.name} {self.role} sha256:{self.digest.hex()}{rate}"


class Keys:
    """The keys of a file, read again when it changes. A file that breaks meanwhile is told in the log, and the former keys stay.

    Raises KeysError where the file cannot be used at the start.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        # Digests are looked up under a secret of this process: how long that takes then tells nothing about any of them.
        self._secret = secrets.token_bytes(32)
        self._seen: tuple[int, ...] | None = _signature(path)
        self._keys = self._indexed(read(path))
        self._next_look = clock() + REREAD_S
        if not self._keys:
            logger.warning("%s holds no key, so nobody may ask; make one: marey key NAME --file %s", path, path)

    def find(self, token: str) -> Key:
        """The key that `token` is. Raises InvalidKey, which does not repeat it."""
        self._reread_if_changed()
        if len(token) <= _LONGEST_TOKEN:
            key = self._keys.get(self._index(digest(token)))
            if key is not None:
                return key
        raise InvalidKey("the API key is not one of those known; ask whoever runs the service for one")

    def _reread_if_changed(self) -> None:
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + REREAD_S
        seen: tuple[int, ...] | None = None
        try:
            seen = _signature(self._path)
            if seen == self._seen:
                return
            keys = self._indexed(read(self._path))
        except KeysError as error:
            if seen != self._seen:
                logger.error("the former %d API keys stay in use: %s", len(self._keys), error)  # noqa: TRY400  # a sentence of ours says it all
            self._seen = seen
            return
        self._seen, self._keys = seen, keys
        logger.info("%d API keys were read from %s", len(keys), self._path)

    def _indexed(self, keys: tuple[Key, ...]) -> dict[bytes, Key]:
        return {self._index(key.digest): key for key in keys}

    def _index(self, digest: bytes) -> bytes:
        return hmac.digest(self._secret, digest, "sha256")


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read(path: Path) -> tuple[Key, ...]:
    """The keys in the file. Raises KeysError, with the line at fault."""
    *_, mode = _signature(path)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeysError(
            f"{path} may be written by others than its owner (mode {stat.S_IMODE(mode):04o}), who could let themselves in; "
            f"chmod go-w {path}"
        )
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        raise KeysError(f"{path} is no text; name the file that marey key wrote") from None
    if len(text) > _MAX_BYTES:
        raise KeysError(f"{path} is larger than the {_MAX_BYTES} bytes allowed; is it a file of API keys?")
    keys = tuple(_parsed(text, path))
    for what in ("name", "digest"):
        values = [getattr(key, what) for key in keys]
        if twice := next((key for key in keys if values.count(getattr(key, what)) > 1), None):
            raise KeysError(f"{path} has two keys of one {what} ({twice.name}); remove one of the lines")
    return keys


def add(path: Path, name: str, *, role: Role = "user", rate: float | None = None) -> str:
    """Make a key, append its hash to the file, which is made where there is none (mode 0600), and return the token: the only copy.

    Raises InvalidParameter for a name that is taken or cannot be one, KeysError for a file that cannot be used.
    """
    if not _NAME.fullmatch(name) or name == ANONYMOUS:
        raise InvalidParameter(
            f"{name!r} is no name for a key; use up to 64 letters, digits, dots, dashes, underscores"
        )
    if rate is not None and not 0 < rate <= _MAX_RATE:
        raise InvalidParameter(f"rate = {rate:g} is not above 0 and at most {_MAX_RATE:g} requests a second")
    token = PREFIX + secrets.token_urlsafe(32)
    with _writing(path) as file:
        if any(key.name == name for key in read(path)):
            raise InvalidParameter(f"{path} has a key {name!r} already; choose another name, or --remove it first")
        before = file.read()
        # In one write: a service that re-reads the file sees the whole line or none of it.
        line = Key(name, role, digest(token), rate).line().encode()
        file.write((b"\n" if before and not before.endswith(b"\n") else b"") + line + b"\n")
    return token


def remove(path: Path, name: str) -> None:
    """Take the key out of the file, in place: a file that is mounted into a container must stay the one that it is.

    Raises InvalidParameter for a name that is not there, KeysError for a file that cannot be used.
    """
    if not path.exists() or all(key.name != name for key in read(path)):
        raise InvalidParameter(f"{path} has no key {name!r}")
    with _writing(path) as file:
        lines = file.read().splitlines(keepends=True)
        left = b"".join(line for line in lines if line.split()[:1] != [name.encode()])
        file.seek(0)
        file.write(left)
        file.truncate()


@contextmanager
def _writing(path: Path) -> Iterator[FileIO]:
    """The file, at its beginning, while nobody else of us writes it. Raises KeysError."""
    try:
        with FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
    except OSError as error:
        raise KeysError(f"{path} cannot be written ({error.strerror}); name another file with --file") from None


def _parsed(text: str, path: Path) -> Iterator[Key]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            yield _key(*words)
        except (TypeError, ValueError):
            # The line is not repeated: someone may have put a key there instead of its hash.
            raise KeysError(
                f"line {number} of {path} is not NAME user|admin sha256:HEX [rate=NUMBER], as marey key writes it; mend or remove it"
            ) from None


def _key(name: str, role: str, hashed: str, rate: str | None = None) -> Key:
    """Raises ValueError."""
    match = _HASH.fullmatch(hashed)
    if not _NAME.fullmatch(name) or name == ANONYMOUS or role not in get_args(Role) or match is None:
        raise ValueError(name)
    value = None
    if rate is not None:
        value = float(rate.removeprefix("rate="))
        if not rate.startswith("rate=") or not 0 < value <= _MAX_RATE:
            raise ValueError(rate)
    return Key(name, cast("Role", role), bytes.fromhex(match[1]), value)


def _signature(path: Path) -> tuple[int, int, int, int]:
    """What changes when the file does; its mode is the last. Raises KeysError where there is no such file."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise KeysError(f"{path} is no file; name the one that marey key wrote")
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _unreadable(path: Path, error: OSError) -> KeysError:
    remedy = f"marey key NAME --file {path} makes one"
    if isinstance(error, PermissionError):
        remedy = f"the service runs as user {os.geteuid()}: chown {os.geteuid()} {path}"
    return KeysError(f"the file of API keys {path} cannot be read ({error.strerror}); {remedy}")
