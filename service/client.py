"""Ask a service to classify files: one that runs somewhere, or one made in this process for the occasion."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from service.api.app import create_app
from service.api.state import Outside
from service.bundle.manifest import Task
from service.errors import MareyError
from service.media.sniff import task_of
from service.settings import Settings

Result = dict[str, Any]
Wishes = Mapping[str, str | float | None]


@asynccontextmanager
async def connect(url: str, *, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service at `url`, with an API key if it asks for one."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url, timeout=None, headers=headers) as client:  # noqa: S113  # the service sets the deadline
        yield client


@asynccontextmanager
async def in_process(settings: Settings, *, outside: Outside | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the same application without a network: one code path, with or without a server.

    `outside`: see `service.api.state`. Raises MareyError when no model can be served.
    """
    # The jobs in the user's folder are a service's to work on, not those of a command that ends soon; and who may ask is settled.
    app = create_app(settings.model_copy(update={"max_jobs": 0, "keys": None, "rate_limit": None}), outside=outside)
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
    client: httpx.AsyncClient, files: Iterable[Path], *, wishes: Wishes, looks: Wishes
) -> AsyncIterator[Result]:
    """Yield one answer a file, in order, each with its `file`; where it went wrong, with `error`, a problem of RFC 9457.

    `wishes` and `looks` are the query; what is None is not asked for. `looks` is for the videos among the files.
    """
    for file in files:
        try:
            data = _read(file)
        except MareyError as error:
            yield {"file": str(file), "error": {"code": "unreadable", "detail": str(error)}}
            continue
        yield {"file": str(file), **await answer(client, data, wishes=wishes, looks=looks)}


async def answer(client: httpx.AsyncClient, data: bytes, *, wishes: Wishes, looks: Wishes) -> Result:
    """What the service says of one file, or `error`; as `classify`."""
    task = task_of(data)
    response = await _post(client, data, task, query=wishes if task == "image" else {**wishes, **looks})
    body = _body(response)
    return body if response.is_success else {"error": body}


async def captioned(
    service: AbstractAsyncContextManager[httpx.AsyncClient], video: Path, *, kind: str, wishes: Wishes
) -> str:
    """What a video shows, as a file of the media type `kind`: WebVTT or CSV. Raises MareyError where it cannot be had."""
    data = _read(video)
    async with service as client:
        response = await _post(client, data, "video", query=wishes, accept=kind)
    if not response.is_success:
        raise MareyError(f"{video}: {_body(response)['detail']}")
    return response.text


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise MareyError(f"{file} cannot be read: {error.strerror}") from error


async def _post(
    client: httpx.AsyncClient, data: bytes, task: Task, *, query: Wishes, accept: str = "application/json"
) -> httpx.Response:
    params = {name: value for name, value in query.items() if value is not None}
    files = {"file": ("file", data)}
    try:
        return await client.post(f"/classify/{task}", params=params, files=files, headers={"Accept": accept})
    except httpx.TransportError as error:
        raise MareyError(f"no service answers at {client.base_url} ({error}); start one with marey serve") from error


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
