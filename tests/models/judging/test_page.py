"""The report as one page: whole, by itself, and harmless whatever a label or a description says."""

from __future__ import annotations

from html.parser import HTMLParser

from models.judging.page import page

VOID = {"br", "hr", "img", "meta"}
PICTURE = b"\x89PNG of no size"


class Checked(HTMLParser):
    """Every tag is closed in its turn; keeps tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:  # <img … /> is told as both
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


TEXT = """# motion 1.0

A network.

## Accuracy

| class | n |
| ----- | - |
| a\\|b | 4 |

## Confusion

![one](one.png)
![gone](gone.png)
"""


def test_the_page_is_well_formed_and_holds_its_pictures_itself() -> None:
    text = page(TEXT, {"one.png": PICTURE}, title="motion 1.0").decode()
    found = Checked(text)
    assert text.startswith("<!DOCTYPE html>")
    (image,) = found.named("img")
    assert image == {"src": "data:image/png;base64,iVBORyBvZiBubyBzaXpl", "alt": "one"}
    assert "gone" in found.text, "of a picture that is not there its text remains"
    assert "a|b" in found.text
    assert [link["href"] for link in found.named("a")] == ["#part-1", "#part-2"]
    assert [heading["id"] for heading in found.named("h2")] == ["part-1", "part-2"]
    assert len(found.named("table")) == 1


def test_nothing_is_fetched_run_or_let_in() -> None:
    evil = "# <script>alert(1)</script>\n\n![x](https://example.org/x.png) <img src=x onerror=alert(1)>\n\n[a](javascript:alert)\n"
    text = page(evil, {}, title="</title><script>").decode()
    found = Checked(text)
    assert not found.named("script")
    assert not found.named("img")
    assert not found.named("a")
    assert "<script>alert(1)</script>" in found.text
    (policy,) = [each["content"] for each in found.named("meta") if "http-equiv" in each]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "url(" not in text
    assert "http://" not in text
    assert not [attributes for _, attributes in found.tags if "https" in str(attributes)]


def test_long_tables_are_folded_and_short_ones_are_not() -> None:
    def table(rows: int) -> str:
        return "\n".join(["| a | b |", "| - | - |", *["| 1 | 2 |"] * rows]) + "\n\n"

    found = Checked(page(f"# t\n\n## s\n\n{table(40)}## l\n\n{table(41)}", {}, title="t").decode())
    assert len(found.named("table")) == 2
    assert len(found.named("details")) == 1
    assert "41 rows" in found.text


def test_a_report_of_nothing_is_a_page_too() -> None:
    assert Checked(page("# x\n", {}, title="x").decode()).named("h1")
