"""The web pages: served as they are, whole without anything from elsewhere, and without scripts inside the page."""

import re
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient

from server import pages

HTML = sorted(set(pages.PAGES) - {"/openapi.json"})


class Links(HTMLParser):
    """What a page loads and leads to, the ids in it, and the text of scripts inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.leads_to: list[str] = []
        self.ids: list[str] = []
        self.inside_script = False
        self.inline = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids += [found["id"]] if found.get("id") else []
        self.inside_script = tag == "script"
        handlers = [name for name in found if name.startswith("on")]
        assert not handlers, (tag, handlers)
        if tag in {"script", "img"} and found.get("src"):
            self.loaded.append(str(found["src"]))
        elif tag == "link":
            self.loaded.append(str(found["href"]))
        elif tag == "a":
            self.leads_to.append(str(found["href"]))

    def handle_endtag(self, tag: str) -> None:
        self.inside_script = False

    def handle_data(self, data: str) -> None:
        self.inline += data.strip() if self.inside_script else ""


def read(client: FlaskClient, address: str) -> str:
    """The text at an address of our own."""
    with client.get(address) as answer:
        assert answer.status_code == 200, address
        return answer.get_data(as_text=True)


def links_of(client: FlaskClient, address: str) -> Links:
    found = Links()
    found.feed(read(client, address))
    return found


@pytest.mark.parametrize("address", HTML)
def test_a_page_is_whole_by_itself(client: FlaskClient, address: str) -> None:
    found = links_of(client, address)

    assert found.inline == ""
    assert len(found.ids) == len(set(found.ids))
    assert found.loaded
    for each in found.loaded:
        assert each.startswith("/static/"), f"{each} comes from elsewhere"
        assert read(client, each)
    for each in found.leads_to:
        where = each.split("?")[0]
        assert (where[1:] in found.ids) if where.startswith("#") else read(client, where), each


@pytest.mark.parametrize("address", HTML)
def test_a_page_speaks_chinese_first_and_english_too(client: FlaskClient, address: str) -> None:
    text = read(client, address)
    assert '<html lang="zh-CN">' in text
    assert 'lang="en"' in text
    assert re.search(r"<h1[^>]*>[^<]*(<[^>]+>)*[^<]*[一-鿿]", text) or address == "/docs"


@pytest.mark.parametrize("address", HTML)
def test_the_elements_that_a_page_asks_for_are_there(client: FlaskClient, address: str) -> None:
    """Every byId("…") of a page's own script names an element of that page."""
    found = links_of(client, address)
    for script in (each for each in found.loaded if each.endswith(".js") and "/vendor/" not in each):
        asked = set(re.findall(r'byId\("([a-z0-9-]+)"\)', read(client, script)))
        assert asked <= set(found.ids), (script, asked - set(found.ids))
