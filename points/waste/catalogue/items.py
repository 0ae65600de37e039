"""What goes where: the district's lists of everyday things, read from its files `waste-items-*.toml`.

Each file is an edition, in force from its day until the next one's. The lists are data for people and nothing is priced
or recorded by them, so they are served from memory as the file has them, and are in no table.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from server.data_files import read_toml
from server.errors import NotFound
from server.places.models import Confidence

FILE_BYTES_MAX = 500_000
ITEMS_MAX = 5_000
NAMES_MAX = 12
NAME_LENGTH_MAX = 30
ENGLISH_LENGTH_MAX = 60
HINT_LENGTH_MAX = 160
FOLDERS_KEPT = 8

_HEAD = {"id", "title_zh", "title_en", "edition_on", "source", "confidence", "categories", "classes", "hints", "items"}
_ITEM = {"names", "pinyin", "en", "class", "hint"}
_CODE = re.compile("[a-z][a-z0-9-]{0,39}")
_SYLLABLES = re.compile("[a-z0-9]+( [a-z0-9]+)*")
_HAN = re.compile("[一-鿿]")


class GuideDataError(Exception):
    """A list of everyday things cannot be read; the message names the file and the fault."""


class NoGuide(NotFound):
    """The district's data folder has no list of everyday things that is in force."""

    code, title_zh, title_en = "no-waste-guide", "本区尚未提供分类指引", "The district has no list of what goes where"


@dataclass(frozen=True, slots=True)
class Category:
    """A category, and the colour of its bin if it has one."""

    code: str
    zh: str
    en: str
    bin_zh: str | None
    bin_en: str | None


@dataclass(frozen=True, slots=True)
class ItemClass:
    """A sub-class of a category."""

    code: str
    category: Category
    zh: str
    en: str
    confidence: Confidence


@dataclass(frozen=True, slots=True)
class Name:
    """What people call a thing: as written, folded for comparing, and its pinyin by syllables (ü as v)."""

    text: str
    folded: str
    syllables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """An everyday thing, where it goes, and how it is handed in. The usual name comes first, in both languages."""

    position: int
    names: tuple[Name, ...]
    english: tuple[str, ...]
    item_class: ItemClass
    hint_zh: str
    hint_en: str
    cities_differ: bool

    @property
    def name_zh(self) -> str:
        """Its usual name."""
        return self.names[0].text

    @property
    def name_en(self) -> str:
        """Its usual name in English."""
        return self.english[0]

    @property
    def also(self) -> list[str]:
        """What else people call it."""
        return [name.text for name in self.names[1:]]

    @property
    def pinyin(self) -> str:
        """The syllables of its usual name."""
        return " ".join(self.names[0].syllables)


@dataclass(frozen=True, slots=True)
class Guide:
    """One edition. `confidence` is that of putting things into classes; each class has its own."""

    id: str
    title_zh: str
    title_en: str
    edition_on: date
    source: str
    confidence: Confidence
    categories: tuple[Category, ...]
    classes: tuple[ItemClass, ...]
    items: tuple[Item, ...]


def guide_on(folder: Path, day: date) -> Guide:
    """The edition in force on a day, or the first one before that. Raises NoGuide, GuideDataError."""
    editions = read_folder(folder)
    if not editions:
        raise NoGuide
    return next((each for each in reversed(editions) if each.edition_on <= day), editions[0])


@lru_cache(maxsize=FOLDERS_KEPT)
def read_folder(folder: Path) -> tuple[Guide, ...]:
    """The editions of a folder, the oldest first, read once by a process. Raises GuideDataError."""
    editions = sorted(
        (read_file(path) for path in sorted(folder.glob("waste-items-*.toml"))), key=lambda each: each.edition_on
    )
    for earlier, later in pairwise(editions):
        if earlier.edition_on == later.edition_on or earlier.id == later.id:
            raise GuideDataError(f"{folder.name}: {earlier.id} and {later.id} need different ids and days")
    return tuple(editions)


def read_file(path: Path) -> Guide:
    """Read and check one edition. Raises GuideDataError."""
    content = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=GuideDataError)
    try:
        return _guide(content)
    except GuideDataError as error:
        raise GuideDataError(f"{path.name}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise GuideDataError(f"{path.name}: missing or not what is expected: {error}") from error


def _guide(content: dict[str, Any]) -> Guide:
    if content.keys() != _HEAD:
        raise GuideDataError(f"the keys must be {', '.join(sorted(_HEAD))}")
    if type(content["edition_on"]) is not date or isinstance(content["edition_on"], datetime):
        raise GuideDataError("edition_on must be a day")
    categories = _by_code([_category(raw) for raw in content["categories"]])
    classes = _by_code([_item_class(raw, categories) for raw in content["classes"]])
    hints = {code: _hint(code, raw) for code, raw in content["hints"].items()}
    if not 0 < len(content["items"]) <= ITEMS_MAX:
        raise GuideDataError(f"needs 1 to {ITEMS_MAX} items")
    items = tuple(_item(position, raw, classes, hints) for position, raw in enumerate(content["items"]))
    _check_names(items)
    return Guide(
        id=_line(content["id"], 60),
        title_zh=_line(content["title_zh"], 100),
        title_en=_line(content["title_en"], 100),
        edition_on=content["edition_on"],
        source=_line(content["source"], 300),
        confidence=Confidence(content["confidence"]),
        categories=tuple(categories.values()),
        classes=tuple(classes.values()),
        items=items,
    )


def _by_code(each: list[Any]) -> dict[str, Any]:
    found = {one.code: one for one in each}
    if len(found) != len(each):
        raise GuideDataError("a code stands there twice")
    for code in found:
        if not _CODE.fullmatch(code):
            raise GuideDataError(f"{code!r} is no code")
    return found


def _category(raw: dict[str, str]) -> Category:
    bins = (_line(raw["bin_zh"], 10), _line(raw["bin_en"], 20)) if "bin_zh" in raw else (None, None)
    return Category(raw["code"], _line(raw["zh"], 20), _line(raw["en"], 40), *bins)


def _item_class(raw: dict[str, str], categories: dict[str, Category]) -> ItemClass:
    return ItemClass(
        raw["code"],
        categories[raw["category"]],
        _line(raw["zh"], 20),
        _line(raw["en"], 60),
        Confidence(raw["confidence"]),
    )


def _hint(code: str, raw: list[str]) -> tuple[str, str]:
    if len(raw) != 2:
        raise GuideDataError(f"hint {code}: needs Chinese and English")
    return _line(raw[0], HINT_LENGTH_MAX), _line(raw[1], HINT_LENGTH_MAX)


def _item(position: int, raw: dict[str, Any], classes: dict[str, ItemClass], hints: dict[str, tuple[str, str]]) -> Item:
    if raw.keys() - {"cities_differ"} != _ITEM:
        raise GuideDataError(f"item {position + 1}: the keys must be {', '.join(sorted(_ITEM))}, cities_differ or not")
    names, pinyin, english = raw["names"], raw["pinyin"], raw["en"]
    if not 0 < len(names) <= NAMES_MAX or len(pinyin) != len(names) or not 0 < len(english) <= NAMES_MAX:
        raise GuideDataError(f"{names}: needs 1 to {NAMES_MAX} names, and the pinyin of each")
    if type(raw.get("cities_differ", False)) is not bool:
        raise GuideDataError(f"{names}: cities_differ is true or false")
    return Item(
        position=position,
        names=tuple(_name(text, syllables) for text, syllables in zip(names, pinyin, strict=True)),
        english=tuple(_line(each, ENGLISH_LENGTH_MAX) for each in english),
        item_class=classes[raw["class"]],
        hint_zh=hints[raw["hint"]][0],
        hint_en=hints[raw["hint"]][1],
        cities_differ=raw.get("cities_differ", False),
    )


def _name(text: str, pinyin: str) -> Name:
    if not _SYLLABLES.fullmatch(pinyin):
        raise GuideDataError(f"{text}: pinyin is syllables of a-z and digits, parted by one blank")
    syllables = tuple(pinyin.split(" "))
    # One syllable for each character; letters and digits that follow each other are one too.
    wanted = len(_HAN.findall(text)) + len(re.findall("[A-Za-z0-9]+", text))
    if len(syllables) != wanted:
        raise GuideDataError(f"{text}: {len(syllables)} syllables of pinyin instead of {wanted}")
    return Name(_line(text, NAME_LENGTH_MAX), text.casefold(), syllables)


def _check_names(items: tuple[Item, ...]) -> None:
    # Were a name to stand under two things, a search would give two answers to one question.
    seen: set[str] = set()
    for item in items:
        for name in item.names:
            if name.folded in seen:
                raise GuideDataError(f"{name.text} stands there twice")
            seen.add(name.folded)


def _line(text: str, length_max: int) -> str:
    if not 0 < len(text) <= length_max or not text.isprintable() or text != text.strip():
        raise GuideDataError(f"{text!r} is no line of 1 to {length_max} characters")
    return text
