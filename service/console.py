"""What the commands of `marey` share: errors as one sentence, settings, options, a line that tells how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from service import logs
from service.errors import MareyError
from service.settings import Settings

P = ParamSpec("P")
S = TypeVar("S", bound=BaseSettings)


def one_sentence(command: Callable[P, int | None]) -> Callable[P, None]:
    """End with the command's exit code; what Marey raises on purpose is one line on stderr and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except MareyError as error:
            click.echo(f"error: {error}", err=True)
            code = 1
        sys.exit(code or 0)

    return run


def settings_of(**flags: Any) -> Settings:
    """As `read` of the service's settings, by which this process logs from here on."""
    settings = read(Settings, flags)
    logs.configure(level=settings.log_level, form=settings.log_format)
    return settings


def read(kind: type[S], flags: Mapping[str, Any]) -> S:
    """The environment with the flags that were given laid over it; a bad value ends the command with exit code 2."""
    try:
        return kind(**{name: value for name, value in flags.items() if value not in (None, ())})
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        prefix = kind.model_config.get("env_prefix", "")
        where = f"--{name.replace('_', '-')}" if flags.get(name) not in (None, ()) else f"{prefix}{name.upper()}"
        raise click.UsageError(f"{where} = {fault.get('input')!r}: {fault['msg']}") from None


engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "tensorrt", "openvino", "onnxruntime"]),
    help="What runs the networks; a named one runs or fails.",
)
precision_option = click.option(
    "--precision", type=click.Choice(["auto", "int8", "fp16", "fp32"]), help="Of the encoder."
)


def status(text: str) -> None:
    """One line that overwrites itself, for who watches; a file gets none of it."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)
