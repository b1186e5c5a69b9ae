"""Read one file from a multipart body while it arrives, into memory or the spool, and stop at the limit."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.api.arrival import arriving
from service.errors import EmptyFile, Malformed, MissingFile, TooLarge
from service.spool import Spool, Upload, too_large

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# The parser writes each fault of a client to the log; here the client is told.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

_REMEDY = "send multipart/form-data, as curl -F file=@PATH does"
# What the form may hold beside the file's own bytes: boundaries, part headers, small foreign fields.
_FORM_OVERHEAD = 64 * 2**10
_MAX_PARTS = 32


@dataclass(slots=True)
class _Form:
    """Collects the bytes of the part named `wanted`, until they are taken, and the names of all parts. Raises Malformed."""

    wanted: str
    data: bytearray = field(default_factory=bytearray)
    names: list[str] = field(default_factory=list)
    ended: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _inside: bool = False
    _named: bool = False
    _parts: int = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._inside = self._named = False
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise Malformed(f"the form has more than the {_MAX_PARTS} parts allowed; {_REMEDY}")

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition" and not self._named:
            self._named = True
            name = parse_options_header(bytes(self._value))[1].get(b"name", b"").decode(errors="replace")
            self._inside = name == self.wanted
            if self._inside and name in self.names:
                raise Malformed(f"the form has two fields {name!r}; send one file a request")
            self.names.append(name)
        self._header.clear()
        self._value.clear()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            self.data += data[start:end]

    def _end(self) -> None:
        self.ended = True

    def take(self) -> bytearray:
        """The bytes that came since the last time."""
        taken, self.data = self.data, bytearray()
        return taken


async def read_file(request: Request, *, spool: Spool, max_bytes: int, name: str = "file") -> Upload:
    """The form field `name`, to be closed by the caller. Raises Malformed, MissingFile, EmptyFile, TooLarge, SpoolFull, TooSlow, ClientGone.

    A refusal does not close the connection: the server discards what the client still sends, so that the client can read
    the answer.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        stated = kind.decode(errors="replace")[:60] or "of no stated type"
        wrong = "multipart/form-data without a boundary" if kind == b"multipart/form-data" else f"{stated}, not a form"
        raise Malformed(f"the body is {wrong}; {_REMEDY}")
    length = request.headers.get("content-length", "")
    stated_size = int(length) - _FORM_OVERHEAD if re.fullmatch(r"[0-9]{1,19}", length) else 0
    if stated_size > max_bytes:
        raise too_large(max_bytes)
    spool.check_room(stated_size)
    form = _Form(name)
    with spool.draft(max_bytes=max_bytes) as draft:
        try:
            parser = MultipartParser(boundary, form.callbacks())
            foreign = 0
            async for chunk in arriving(request):
                parser.write(chunk)
                foreign += len(chunk) - len(form.data)
                if foreign > _FORM_OVERHEAD:
                    raise TooLarge(
                        f"the form has more than {_FORM_OVERHEAD} bytes beside the field {name!r}; send the file alone"
                    )
                await draft.write(form.take())
            parser.finalize()
        except FormParserError as error:
            raise Malformed(f"the multipart body is broken ({error}); {_REMEDY}") from None
        if name not in form.names:
            found = ", ".join(repr(other[:40]) for other in form.names[:5]) or "no field at all"
            raise MissingFile(f"the form has no field {name!r}, it has {found}; {_REMEDY}")
        if not form.ended:
            raise Malformed(f"the multipart body ends in the middle of a part; {_REMEDY}")
        if not draft.size:
            raise EmptyFile(f"the file in {name!r} has 0 bytes; send an image or a video")
        return await draft.finish()
