"""How the service logs: a line of text for people, or one JSON object a line for machines. API keys appear in neither."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

import click

Form = Literal["text", "json"]

# What is known of the request that is being worked on; every line that is logged meanwhile says it.
REQUEST: ContextVar[Mapping[str, Any] | None] = ContextVar("request", default=None)
_OF_REQUEST = ("request_id", "client", "trace_id")

# Our own keys wherever they stand, and whatever else somebody sends as one: at the level debug, libraries log whole requests.
_SECRET = re.compile(
    r"marey_[A-Za-z0-9_-]{43}"
    r"|(?<=[Bb]earer )[^\s\"'\\]+|(?<=[Aa]uthorization: )[^\r\n\"'\\]+|(?<=marey\.key\.)[^\s,\"'\\]+"
)
_MARKS = ("marey_", "earer ", "uthorization: ", "marey.key.")
# They log the addresses that they ask, with whatever secrets stand in their queries.
_TALKATIVE = ("httpcore", "httpx", "urllib3")


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, what is known of the request, `record.fields`, and the exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = REQUEST.get()
        if request is not None:
            line.update((name, request[name]) for name in _OF_REQUEST if name in request)
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return without_secrets(json.dumps(line, ensure_ascii=False, default=str))


def without_secrets(text: str) -> str:
    # Looked for by their marks first: the pattern alone would take as long as all the rest of a line.
    return _SECRET.sub("[secret]", text) if any(mark in text for mark in _MARKS) else text


def configure(*, level: str, form: Form) -> None:
    """Log to stderr from here on, warnings and uncaught exceptions of any thread included where machines read."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    if form == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _uncaught
        threading.excepthook = lambda args: _uncaught(
            args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
        )


def tell(text: str, *, form: Form, error: bool = False) -> None:
    """Say `text` to whoever started the service, on stdout, or on stderr where it is an error."""
    if form == "json":
        level = logging.ERROR if error else logging.INFO
        text = JsonFormatter().format(logging.LogRecord("service", level, __file__, 0, text, None, None))
    elif error:
        text = f"error: {text}"
    click.echo(text, err=error)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("service").critical("%s was not caught", kind.__name__, exc_info=(kind, error, trace))
