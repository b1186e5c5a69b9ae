"""Which form of an answer a client would rather have: HTTP's Accept, and segments as WebVTT or CSV."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any, Literal

from fastapi.responses import StreamingResponse

from service import __version__
from service.api.schemas import ModelUsed
from service.captions import CSV_TYPE, VTT_TYPE, Caption, csv_head, csv_rows, vtt_cue, vtt_head

Format = Literal["json", "vtt", "csv"]
TYPES: dict[Format, str] = {"json": "application/json", "vtt": VTT_TYPE, "csv": CSV_TYPE}

# For an endpoint's `responses`, so that /openapi.json names them.
TEXTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string"}} for kind in (VTT_TYPE, CSV_TYPE)}}
}


def preferred(accept: str, *, offered: Sequence[Format] = ("json", "vtt", "csv")) -> Format:
    """The one of `offered` that an Accept header gives the highest q, by its most specific range that fits (RFC 9110, 12.5.1).

    The first of `offered` where several are liked equally, or none at all: an answer in another form than asked for is of
    more use than a refusal.
    """
    liked = list(_ranges(accept)) or [("*/*", 1.0)]
    ranked = [(_quality(TYPES[form], liked), -number) for number, form in enumerate(offered)]
    quality, number = max(ranked)
    return offered[-number] if quality > 0 else offered[0]


def text_response(
    captions: Iterable[Caption] | AsyncIterable[Caption],
    *,
    form: Literal["vtt", "csv"],
    model: ModelUsed,
    multi_label: bool,
    every: bool,
) -> StreamingResponse:
    """`captions` as a file, made while it is sent; `every`: a WebVTT cue shows each class, and not only what is said."""

    async def pieces() -> AsyncIterator[str]:
        note = f"{model.name} {model.version} on {model.engine} {model.precision}, by Marey {__version__}"
        yield vtt_head(note) if form == "vtt" else csv_head()
        async for caption in _each(captions):
            yield vtt_cue(caption, multi_label=multi_label, every=every) if form == "vtt" else csv_rows(caption)

    header = "; header=present" if form == "csv" else ""
    return StreamingResponse(pieces(), media_type=f"{TYPES[form]}; charset=utf-8{header}", headers={"Vary": "Accept"})


async def _each(captions: Iterable[Caption] | AsyncIterable[Caption]) -> AsyncIterator[Caption]:
    if isinstance(captions, AsyncIterable):
        async for caption in captions:
            yield caption
        return
    for caption in captions:
        yield caption


def _ranges(accept: str) -> Iterable[tuple[str, float]]:
    """Each media range with its q; one whose q is no number from 0 to 1 counts as not sent."""
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weights = [value for name, _, value in (each.partition("=") for each in parameters) if name.strip() == "q"]
        try:
            quality = float(weights[0]) if weights else 1.0
        except ValueError:
            continue
        if kind and 0 <= quality <= 1:
            yield kind, quality


def _quality(kind: str, liked: Sequence[tuple[str, float]]) -> float:
    for fitting in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        found = [quality for offered, quality in liked if offered == fitting]
        if found:
            return max(found)
    return 0.0
