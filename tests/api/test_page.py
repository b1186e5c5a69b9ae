"""The page at `/`: everything it names is served by the service itself, as what it is, and within its own policy."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from service.keys import add

KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Page(HTMLParser):
    """What the page refers to, what it calls by name, and what its policy would not run."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.files: set[str] = set()
        self.ids: list[str] = []
        self.inline: list[str] = []
        self.unlabelled: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        held = dict(attributes)
        if tag not in self.VOID:
            self._open.append(tag)
        self.inline += [name for name in held if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in held):
            self.inline.append(tag)
        for name in ("src", "href"):
            if held.get(name):
                (self.links if tag == "a" else self.files).add(str(held[name]))
        if held.get("id"):
            self.ids.append(str(held["id"]))
        if tag in ("select", "input") and "hidden" not in held and "label" not in self._open:
            self.unlabelled.append(str(held.get("id")))
        if tag == "img":
            assert "alt" in held

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def page(served) -> Page:
    return Page(served.client.get("/").text)


def scripts(served, page: Page) -> dict[str, str]:
    """Every script that the page runs, by its path: those it names, and those they import."""
    found: dict[str, str] = {}
    waiting = [path for path in page.files if path.endswith(".js")]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = served.client.get(path).raise_for_status().text
        imported = re.findall(r'^import .*? from "\./(\S+)";$', found[path], re.MULTILINE)
        waiting += [f"/static/{name}" for name in imported]
    return found


def test_the_page_is_html_whose_elements_close_and_whose_names_are_unique(served, page: Page) -> None:
    response = served.client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert len(set(page.ids)) == len(page.ids)
    assert page.unlabelled == []


def test_everything_that_the_page_names_is_served_here_as_what_it_is(served, page: Page) -> None:
    paths = {*page.files, *scripts(served, page), "/favicon.ico"}
    assert {path.rpartition(".")[2] for path in paths} >= {"css", "js", "svg"}
    for path in paths:
        assert path.startswith("/")
        response = served.client.get(path)
        assert response.status_code == 200, path
        kind = KINDS.get(path.rpartition(".")[2], "image/svg+xml")
        assert response.headers["content-type"].partition(";")[0] == kind
        assert response.headers["x-content-type-options"] == "nosniff"
    for link in page.links:
        assert served.client.get(link).status_code == 200, link


def test_nothing_on_the_page_comes_from_elsewhere_or_breaks_its_policy(served, page: Page) -> None:
    policy = served.client.get("/").headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.inline == []
    texts = [served.client.get(path).text for path in (*page.files, "/")] + list(scripts(served, page).values())
    for text in texts:
        foreign = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)) - {"http://www.w3.org"}
        assert foreign == set()
        assert not re.search(r"\.innerHTML|\beval\(|insertAdjacentHTML|document\.write|new Function", text)


def test_every_element_that_the_scripts_ask_for_is_on_the_page(served, page: Page) -> None:
    asked = {name for text in scripts(served, page).values() for name in re.findall(r'\$\("([\w-]+)"\)', text)}
    assert len(asked) > 20
    assert asked <= set(page.ids)


@pytest.mark.parametrize("name", ["nothing.js", "..%2f..%2fapp.py", "%2e%2e/page.py", "page.py"])
def test_no_other_file_is_served(served, name: str) -> None:
    response = served.client.get(f"/static/{name}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_the_page_is_open_where_keys_are_asked_for(serve, color_bundle, tmp_path) -> None:
    add(tmp_path / "keys", "somebody")
    with serve(str(color_bundle.path), MAREY_KEYS=str(tmp_path / "keys")) as running:
        assert running.client.get("/").status_code == 200
        assert running.client.get("/static/app.js").status_code == 200
        assert running.client.get("/models").status_code == 401
