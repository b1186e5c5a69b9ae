"""Ask a service to classify files: one that runs somewhere, or one made in this process for the occasion."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from service.api.app import create_app
from service.errors import MareyError
from service.media.sniff import task_of
from service.settings import Settings

Result = dict[str, Any]


@asynccontextmanager
async def connect(url: str, *, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service at `url`, with an API key if it asks for one."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url, timeout=None, headers=headers) as client:  # noqa: S113  # the service sets the deadline
        yield client


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the same application without a network: one code path, with or without a server.

    Raises MareyError when no model can be served.
    """
    # The jobs in the user's folder are a service's to work on, not those of a command that ends soon; and who may ask is settled.
    app = create_app(settings.model_copy(update={"max_jobs": 0, "keys": None, "rate_limit": None}))
    async with app.router.lifespan_context(app):
        await app.state.marey.loaded.wait()
        if app.state.marey.failure is not None:
            raise app.state.marey.failure
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://marey",
            timeout=None,  # noqa: S113  # the service sets the deadline
        ) as client:
            yield client


async def classify(
    client: httpx.AsyncClient, files: Iterable[Path], *, model: str | None, top_k: int | None
) -> AsyncIterator[Result]:
    """Yield one answer a file, in order, each with its `file`; where it went wrong, with `error`, a problem of RFC 9457."""
    wishes = {name: value for name, value in {"model": model, "top_k": top_k}.items() if value is not None}
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            yield {
                "file": str(file),
                "error": {"code": "unreadable", "detail": f"{file} cannot be read: {error.strerror}"},
            }
            continue
        try:
            response = await client.post(f"/classify/{task_of(data)}", params=wishes, files={"file": ("file", data)})
        except httpx.TransportError as error:
            raise MareyError(
                f"no service answers at {client.base_url} ({error}); start one with marey serve"
            ) from error
        body = _body(response)
        yield {"file": str(file), **(body if response.is_success else {"error": body})}


def _body(response: httpx.Response) -> Result:
    """The JSON of an answer or of a problem; raises MareyError where something else answered."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or not {"predictions", "code"} & set(body):
        raise MareyError(
            f"{response.url} answered {response.status_code}, and not as a Marey service does; check --url"
        )
    return body
