"""`report.html`: the report as one file that needs no network and runs no script, its pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

_STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #f6f8fa; --text: #1f2328; --back: #fff; --link: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3d444d; --soft: #161b22; --text: #e6edf3; --back: #0d1117; --link: #79b8ff; }
}
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.25; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
a { color: var(--link); }
nav { columns: 16rem; font-size: .9rem; }
nav a { display: block; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .25rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--soft); }
code { background: var(--soft); border-radius: 3px; padding: .1em .3em; font-size: .9em; overflow-wrap: anywhere; }
td code, td:last-child { white-space: nowrap; }
img { display: block; margin: 1rem 0; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
summary { cursor: pointer; }
"""
# Longer tables are folded away.
_LONG = 40


def page(markdown: str, pictures: Mapping[str, bytes], *, title: str) -> bytes:
    """`markdown`, whose images are names in `pictures` (PNG); one that is not there leaves its text. HTML in it is shown, not followed."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens: list[Token] = parser.parse(markdown)
    contents: list[str] = []
    body: list[Token] = []
    for place, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            name = f"part-{len(contents) + 1}"
            token.attrSet("id", name)
            contents.append(f'<a href="#{name}">{escape(tokens[place + 1].content)}</a>')
        if token.children:
            token.children = [_pictured(each, pictures) for each in token.children]
        rows = _rows(tokens, place) if token.type == "table_open" else 0
        if rows > _LONG:
            body.append(Token("html_block", "", 0, content=f"<details><summary>{rows} rows</summary>\n"))
        body.append(token)
        if token.type == "table_close" and _rows(tokens, _opened(tokens, place)) > _LONG:
            body.append(Token("html_block", "", 0, content="</details>\n"))
    first = next(
        (place for place, token in enumerate(body) if token.type == "heading_open" and token.tag == "h2"), len(body)
    )
    body.insert(first, Token("html_block", "", 0, content=f"<nav>{''.join(contents)}</nav>\n"))
    text = parser.renderer.render(body, parser.options, {})
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
    )
    return f"{head}<body>\n{text}</body>\n</html>\n".encode()


def _pictured(token: Token, pictures: Mapping[str, bytes]) -> Token:
    """An image with its bytes in place of its name."""
    if token.type != "image":
        return token
    data = pictures.get(str(token.attrGet("src")))
    if data is None:
        return Token("text", "", 0, content=token.content)
    token.attrSet("src", f"data:image/png;base64,{base64.b64encode(data).decode()}")
    return token


def _rows(tokens: Sequence[Token], place: int) -> int:
    """Of the table that opens at `place`, without its header."""
    count = 0
    for token in tokens[place:]:
        if token.type == "table_close":
            break
        count += token.type == "tr_open"
    return count - 1


def _opened(tokens: Sequence[Token], place: int) -> int:
    """Where the table that closes at `place` opens."""
    return max(before for before, token in enumerate(tokens[:place]) if token.type == "table_open")
