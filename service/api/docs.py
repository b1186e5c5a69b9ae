"""`GET /docs`: the API described on one page, made of its OpenAPI document here: no script, and nothing from elsewhere.

# Note [Why not Swagger UI]
FastAPI's page is empty on a machine without internet, and lets a script of a third party into the origin that keys are
typed into. The page `/` is there to try the service with; this one is there to read. Tools take `/openapi.json`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from service import errors
from service.errors import MareyError

router = APIRouter(include_in_schema=False)

_METHODS = ("get", "post", "put", "delete")
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "maxLength": "length ≤"}
_HUGE = 1e9  # limits above are for databases, not for readers
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem; text-transform: capitalize }
h3 { margin-top: 2rem; font-family: ui-monospace, monospace; font-size: 1rem }
h3 b { display: inline-block; min-width: 4rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-top: 1px solid #8884 }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
"""
CSP = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@router.get("/docs", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    return HTMLResponse(page(request.app.openapi()), headers={"Content-Security-Policy": CSP})


def page(document: Mapping[str, Any]) -> str:
    """The whole page for an OpenAPI document."""
    info = document["info"]
    body = "".join(_body(document))
    title = escape(info["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{title} {escape(info['version'])}</h1>{body}</html>"
    )


def _body(document: Mapping[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield f"<p>{escape(info.get('summary', ''))}</p>{_paragraphs(info.get('description', ''))}"
    yield '<p>For tools: <a href="openapi.json">openapi.json</a>. To try it: <a href="./">the page</a>.</p>'
    tag = None
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method not in item:
                continue
            operation = item[method]
            if (its := operation.get("tags", ["other"])[0]) != tag:
                tag = its
                yield f"<h2>{escape(tag)}</h2>"
            yield from _operation(method, path, operation)
    yield "<h2>Errors</h2><p>Each is <code>application/problem+json</code> (RFC 9457); <code>code</code> is stable.</p>"
    yield _table(
        ("status", "code", "meaning"), ((str(each.status), each.code, each.title) for each in _codes()), fixed=(0, 1)
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h3><b>{method.upper()}</b> {escape(path)}</h3>{_paragraphs(operation.get('description', ''))}"
    parameters = [
        (each["name"], each["in"], _type(each.get("schema", {})), each.get("description", ""))
        for each in operation.get("parameters", ())
    ]
    if parameters:
        yield _table(("parameter", "in", "type", ""), parameters, fixed=(0,))
    taken = operation.get("requestBody", {}).get("content", {})
    if taken:
        yield "<p>Body: " + ", or ".join(f"<code>{escape(_form(*each))}</code>" for each in taken.items()) + ".</p>"
    answers = operation.get("responses", {})
    good = [status for status in answers if status < "400"]
    gives = sorted({kind for status in good for kind in answers[status].get("content", {})})
    bad = ", ".join(sorted(status for status in answers if status >= "400"))
    yield f"<p>Answers {escape(', '.join(good))}: <code>{escape(', '.join(gives))}</code>" + (
        f"; or {escape(bad)}.</p>" if bad else ".</p>"
    )


def _form(kind: str, described: Mapping[str, Any]) -> str:
    fields = ", ".join(described.get("schema", {}).get("properties", ()))
    return f"{kind} ({fields})" if fields else kind


def _type(schema: Mapping[str, Any]) -> str:
    """In a few words: type, choices, limits and default."""
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    words = []
    for each in kinds:
        words.append(" | ".join(map(str, each["enum"])) if "enum" in each else str(each.get("type", "")))
        words += [f"{sign} {each[name]:g}" for name, sign in _LIMITS.items() if each.get(name, _HUGE) < _HUGE]
    if schema.get("default") is not None:
        words.append(f"= {schema['default']}")
    return " ".join(words)


def _table(heads: tuple[str, ...], rows: Any, *, fixed: tuple[int, ...]) -> str:
    cells = (
        "".join(
            f"<td>{f'<code>{escape(cell)}</code>' if number in fixed else escape(cell)}</td>"
            for number, cell in enumerate(row)
        )
        for row in rows
    )
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(each)}</p>" for each in text.split("\n\n") if each)


def _codes() -> list[type[MareyError]]:
    """Every error that a client can meet, by status."""
    found = {
        each.code: each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, MareyError)
    }
    return sorted(found.values(), key=lambda each: (each.status, each.code))
