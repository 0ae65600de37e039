"""Finding an everyday thing by what somebody types: Chinese, pinyin in full or in part, initials, English.

Pure functions over one edition of some hundred things. Every name is looked at: that takes a few milliseconds, and so
needs no index.
"""

import enum
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from points.waste.catalogue.items import Guide, Item, Name
from server.paging import Page, decode, page_of

QUERY_LENGTH_MAX = 40
# In a longer one the name of a single character (刀, 药) is found by chance.
CONTAINED_LENGTH_MIN = 2


class Match(enum.IntEnum):
    """How well a thing fits what was typed, the best first."""

    SAME = 0  # the name itself, in any of its spellings
    ALL = 1  # every syllable begun: kqsp for 矿泉水瓶
    START = 2  # the name begins so
    INSIDE = 3  # a later part of the name
    NAMED = 4  # what was typed names the thing and says more: 喝完的矿泉水瓶
    LOOSE = 5  # the characters in their order, with others between


@dataclass(frozen=True, slots=True)
class Found:
    """A thing that fits, by which of its names, and how well."""

    item: Item
    matched: str
    match: Match
    length: int

    @property
    def key(self) -> tuple[int, int, int]:
        """The order of answers: better first, then shorter names, then the order of the file."""
        return self.match, self.length, self.item.position


def search(
    guide: Guide, query: str | None, *, category: str | None = None, item_class: str | None = None
) -> list[Found]:
    """The things that fit, the best first; without a query all of them in the order of the file.

    Loose fits are only told when nothing fits better. An empty query that is no question at all finds nothing.
    """
    items = [
        item
        for item in guide.items
        if category in (None, item.item_class.category.code) and item_class in (None, item.item_class.code)
    ]
    if query is None:
        return [Found(item, item.names[0].text, Match.SAME, 0) for item in items]
    folded, letters = fold(query), letters_of(query)
    words = folded.split() if folded.isascii() else []
    folded = "".join(folded.split())
    if not folded:
        return []
    found = [best for item in items if (best := _best(item, folded, letters, words)) is not None]
    close = [each for each in found if each.match is not Match.LOOSE]
    return sorted(close or found, key=lambda each: each.key)


def page(
    guide: Guide, *, query: str | None, category: str | None, item_class: str | None, limit: int, cursor: str | None
) -> Page[Found]:
    """A page of `search`. Raises BadCursor."""
    found = search(guide, query, category=category, item_class=item_class)
    after = decode(cursor, tuple[int, int, int]) if cursor else None
    rest = [each for each in found if after is None or each.key > after]
    return page_of(rest[: limit + 1], limit, lambda each: each.key)


def fold(text: str) -> str:
    """Text for comparing: full-width letters as the usual ones, small, with one blank where there are any."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def letters_of(text: str) -> str | None:
    """What was typed as pinyin: letters and digits alone, without tones, ü as v; None when it is no such thing."""
    spelled = fold(text)
    for vowel in "üǖǘǚǜ":
        spelled = spelled.replace(vowel, "v")
    plain = "".join(
        character for character in unicodedata.normalize("NFD", spelled) if not unicodedata.combining(character)
    )
    letters = "".join(character for character in plain if character not in " '-’")
    return letters if letters.isascii() and letters.isalnum() else None


def _best(item: Item, folded: str, letters: str | None, words: list[str]) -> Found | None:
    best: Found | None = None
    for match, name, length in _matches(item, folded, letters, words):
        if best is None or (match, length) < (best.match, best.length):
            best = Found(item, name, match, length)
    return best


def _matches(item: Item, folded: str, letters: str | None, words: list[str]) -> Iterator[tuple[Match, str, int]]:
    for name in item.names:
        match = _written(name.folded, folded)
        if match is not None:
            # Of the names that a question holds the longest says most.
            yield match, name.text, -len(name.text) if match is Match.NAMED else len(name.text)
        if letters is not None:
            spelled = _spelled(name, letters)
            if spelled is not None:
                yield spelled, name.text, len(name.text)
    if words:
        for english in item.english:
            said = _said(english.casefold(), words)
            if said is not None:
                yield said, english, len(english)


def _written(name: str, query: str) -> Match | None:
    """How what was typed fits a name as it is written."""
    if query in name:
        return Match.SAME if name == query else Match.START if name.startswith(query) else Match.INSIDE
    if len(name) < CONTAINED_LENGTH_MIN:
        return None
    if name in query:
        return Match.NAMED
    loose = len(query) >= CONTAINED_LENGTH_MIN and not query.isascii()
    return Match.LOOSE if loose and (_in_order(name, query) or _in_order(query, name)) else None


def _in_order(part: str, whole: str) -> bool:
    rest = iter(whole)
    return all(character in rest for character in part)


def _spelled(name: Name, letters: str) -> Match | None:
    """How letters fit a name's pinyin: every syllable that they reach is begun by one letter or more of theirs."""
    if "".join(name.syllables) == letters:
        return Match.SAME
    for start in range(len(name.syllables)):
        reached = _syllables_begun(name.syllables[start:], letters)
        if reached is not None:
            if start:
                return Match.INSIDE
            return Match.ALL if reached == len(name.syllables) else Match.START
    return None


def _syllables_begun(syllables: tuple[str, ...], letters: str) -> int | None:
    """How many syllables, from the first on, the letters begin and use up; None when they do not.

    Every way of parting the letters is followed at once (xian is xi'an and xian), so the work is bounded by the product
    of the two lengths.
    """
    ends = {0}
    most = None
    for count, syllable in enumerate(syllables, 1):
        ends = {end + length for end in ends for length in _begun(syllable, letters, end)}
        if not ends:
            return most
        if len(letters) in ends:
            most = count
    return most


def _begun(syllable: str, letters: str, start: int) -> Iterator[int]:
    for length in range(1, len(syllable) + 1):
        typed = letters[start + length - 1 : start + length]
        # Many type lu for 绿 and 铝: their keyboards have no ü.
        if typed != syllable[length - 1] and not (typed == "u" and syllable[length - 1] == "v"):
            return
        yield length


def _said(english: str, words: list[str]) -> Match | None:
    said = " ".join(words)
    if english == said:
        return Match.SAME
    if english.startswith(said):
        return Match.START
    known = english.replace("-", " ").split()
    if all(any(each.startswith(word) for each in known) for word in words):
        return Match.INSIDE
    return None
