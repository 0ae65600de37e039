"""Drawing a round's sample: a probability sample of registered residents by street and age band, from a seed.

Who can be drawn is the frame: enabled residents of the district with a community and a year of birth, old enough. The
platform knows no household, so people are drawn one by one; children under fourteen are not invited at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.diaries.models import AGE_INVITED_MIN, DRAWN_MAX
from server.errors import DomainError

# A cell with one person says nothing of how much its people differ.
CELL_PERSONS_MIN = 2


class SampleTooSmall(DomainError):
    """Every cell with anybody in it needs two people, for the precision to be known."""

    code, status, title_zh, title_en = (
        "diary-sample-too-small",
        422,
        "样本量过小, 每个单元格至少需两人",
        "The sample is too small: two people from every cell",
    )


class NobodyToInvite(DomainError):
    """No resident can be drawn, or the plan asks for nobody."""

    code, status, title_zh, title_en = "diary-nobody-to-invite", 422, "没有可邀请的居民", "There is nobody to invite"


class Cell(msgspec.Struct, frozen=True, order=True):
    """One street's people of one age band."""

    street_code: str
    age_band: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """One person of the sample. `weight` is their cell's frame ÷ drawn, the inverse of the chance to be drawn."""

    resident_id: UUID
    community_code: str
    cell: Cell
    day: date
    weight: float


def band_names(age_bands: Sequence[int]) -> list[str]:
    """The names of the bands that begin at these ages, ascending: [14, 18, 60] is 14-17, 18-59 and 60+."""
    bounded = [f"{low}-{high - 1}" for low, high in pairwise(age_bands)]
    return [*bounded, f"{age_bands[-1]}+"]


def age_invited_min(definition_age_min: int) -> int:
    """The youngest age that is invited under a definition, in years."""
    return max(definition_age_min, AGE_INVITED_MIN)


def shared_out(frame: Mapping[Cell, int], size: int) -> dict[Cell, int]:
    """`size` people over the cells in proportion to the frame, at least CELL_PERSONS_MIN of each that has them.

    What the least leaves is shared by the largest remainders (Hamilton), ties by the cells' order. More than there are
    is everybody. Raises SampleTooSmall, NobodyToInvite.
    """
    least = {cell: min(CELL_PERSONS_MIN, count) for cell, count in sorted(frame.items()) if count}
    if not least:
        raise NobodyToInvite
    size = min(size, sum(frame.values()))
    left = size - sum(least.values())
    if left < 0:
        raise SampleTooSmall(f"At least {sum(least.values())} for the {len(least)} cells with anybody in them")
    room = {cell: frame[cell] - least[cell] for cell in least}
    total = sum(room.values()) or 1
    whole = {cell: left * count // total for cell, count in room.items()}
    by_remainder = sorted(room, key=lambda cell: (-(left * room[cell] % total), cell))
    extra = set(by_remainder[: left - sum(whole.values())])
    return {cell: least[cell] + whole[cell] + (cell in extra) for cell in least}


# A person who may still be too young on some day of the year is not invited: only the year of birth is known.
_FRAME = """
    SELECT resident_id, community_code, left(community_code, 9) AS street_code,
           (cast(:band_names AS text[]))[width_bucket(:year - born_in, cast(:age_bands AS int[]))] AS age_band
    FROM resident
    WHERE enabled AND starts_with(community_code, :division)
      AND :year - 1 - born_in >= :age_min AND :year - born_in >= (cast(:age_bands AS int[]))[1]
"""

_COUNTED = sa.text(f"SELECT street_code, age_band, count(*) FROM ({_FRAME}) AS frame GROUP BY 1, 2")  # noqa: S608 -- ours

_LEFT_OUT = sa.text("""
    SELECT count(*) FILTER (WHERE community_code IS NOT NULL) AS registered,
           count(*) FILTER (WHERE community_code IS NULL) AS without_community,
           count(*) FILTER (WHERE community_code IS NOT NULL AND NOT enabled) AS disabled,
           count(*) FILTER (WHERE community_code IS NOT NULL AND enabled AND born_in IS NULL) AS without_birth_year,
           count(*) FILTER (WHERE community_code IS NOT NULL AND enabled AND (:year - 1 - born_in < :age_min
                            OR :year - born_in < (cast(:age_bands AS int[]))[1])) AS too_young
    FROM resident WHERE community_code IS NULL OR starts_with(community_code, :division)
""")

# The order of a cell's people and the day of each come from SHA-256 over the seed and the person, so that the same
# frame and seed give the same sample on any machine; 2^64 over at most 92 days leaves no bias that could be seen.
_DRAWN = sa.text(f"""
    WITH frame AS MATERIALIZED ({_FRAME}
    ), ordered AS (
        SELECT *, count(*) OVER cell AS frame_count,
               row_number() OVER (cell ORDER BY sha256(convert_to(:seed || '/person/' || resident_id, 'UTF8'))) AS place
        FROM frame WINDOW cell AS (PARTITION BY street_code, age_band)
    )
    SELECT resident_id, community_code, street_code, age_band, frame_count,
           sha256(convert_to(:seed || '/day/' || resident_id, 'UTF8')) AS day_bytes
    FROM ordered
    JOIN json_to_recordset(cast(:sizes AS json)) AS wanted (street_code text, age_band text, size int)
        USING (street_code, age_band)
    WHERE place <= size ORDER BY resident_id
""")  # noqa: S608 -- ours


@dataclass(frozen=True, slots=True)
class Frame:
    """Whom a round may draw: residents of `division` who have the age all through the year, by bands."""

    division: str
    year: int
    age_min: int
    age_bands: tuple[int, ...]

    @property
    def terms(self) -> dict[str, object]:
        """The frame as the statements take it."""
        bands = list(self.age_bands)
        return {
            "division": self.division,
            "year": self.year,
            "age_min": self.age_min,
            "age_bands": bands,
            "band_names": band_names(bands),
        }


def count_frame(session: Session, frame: Frame) -> dict[Cell, int]:
    """How many people each cell of the frame has; cells without anybody are left out."""
    return {Cell(street, band): int(count) for street, band, count in session.execute(_COUNTED, frame.terms)}


def count_left_out(session: Session, frame: Frame) -> dict[str, int]:
    """How many residents are registered in the district, and how many of them cannot be drawn, by reason.

    `without_community` are of no district yet and so not among the registered.
    """
    terms = {name: value for name, value in frame.terms.items() if name != "band_names"}
    return {name: int(count) for name, count in session.execute(_LEFT_OUT, terms).mappings().one().items()}


def draw(
    session: Session, frame: Frame, sizes: Mapping[Cell, int], *, seed: int, first_on: date, last_on: date
) -> list[Drawn]:
    """The sample: `sizes` people of each cell, or all where there are fewer, each with a random day, by resident.

    Raises NobodyToInvite, and ValueError for more than DRAWN_MAX.
    """
    wanted = [
        {"street_code": cell.street_code, "age_band": cell.age_band, "size": size} for cell, size in sizes.items()
    ]
    if sum(sizes.values()) > DRAWN_MAX:
        raise ValueError(f"at most {DRAWN_MAX} people in a round")
    rows = session.execute(
        _DRAWN, {**frame.terms, "seed": str(seed), "sizes": msgspec.json.encode(wanted).decode()}
    ).all()
    if not rows:
        raise NobodyToInvite
    days = (last_on - first_on).days + 1
    drawn: dict[Cell, int] = {}
    for row in rows:
        cell = Cell(row.street_code, row.age_band)
        drawn[cell] = drawn.get(cell, 0) + 1
    return [
        Drawn(
            resident_id=row.resident_id,
            community_code=row.community_code,
            cell=Cell(row.street_code, row.age_band),
            day=date.fromordinal(first_on.toordinal() + int.from_bytes(row.day_bytes[:8], "big") % days),
            weight=row.frame_count / drawn[Cell(row.street_code, row.age_band)],
        )
        for row in rows
    ]
