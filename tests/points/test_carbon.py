"""Carbon methods: the published figures, the arithmetic, the loader's refusals and the replay."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from points.carbon import methods
from points.carbon.methods import MethodChanged, MethodData, MethodDataError, MethodUnknown
from points.carbon.models import Factor, FactorUnit, Method, MethodKind
from points.carbon.replay import ReplayRow, replay
from points.carbon.savings import FactorSet, recycling_saved_mg, saved_mg, travel_saved_mg
from points.earning.models import Activity, Behaviour, Grade, Outcome
from server.database import new_id
from server.places.models import Confidence

DEFAULT_TRAVEL = "published-conservative"
OTHER_TRAVEL = "jjj-2024-unconfirmed"
RECYCLING = "warm-v16"
TODAY = date(2026, 11, 22)

# The figures of the field's sources, in their own words.
PUBLISHED = {
    OTHER_TRAVEL: {
        "walk": "104 g/km",
        "bicycle": "95.3 g/km",
        "e-bike": "95.3 g/km",
        "bus": "52 g/km",
        "metro": "72 g/km",
    },
    DEFAULT_TRAVEL: {
        "bicycle": "39.6 g/km",
        "e-bike": "39.6 g/km",
        "bus": "26.9 g/km",
        "metro": "46.8 g/km",
    },
    RECYCLING: {
        "aluminium_can": "10.06 kg/kg",
        "steel_can": "2.02 kg/kg",
        "mixed_metal": "4.84 kg/kg",
        "copper": "4.95 kg/kg",
        "mixed_paper": "3.91 kg/kg",
        "corrugated": "3.46 kg/kg",
        "office_paper": "3.16 kg/kg",
        "newspaper": "2.99 kg/kg",
        "pet": "1.14 kg/kg",
        "hdpe": "0.836 kg/kg",
        "pp": "0.875 kg/kg",
        "mixed_plastic": "1.02 kg/kg",
        "glass": "0.304 kg/kg",
        "mixed_electronics": "1.00 kg/kg",
        "portable_electronics": "1.17 kg/kg",
    },
}
MICROGRAMS_PER_METRE_OR_GRAM = {"g/km": 1_000, "kg/kg": 1_000_000}


@contextmanager
def refused(session: Session, kind: type[Exception] = DBAPIError) -> Iterator[None]:
    """The statement inside must be refused by the database."""
    with pytest.raises(kind), session.begin_nested():
        yield


def packaged() -> dict[str, MethodData]:
    return {method.id: method for method in methods.read_methods()}


# The data files


def test_the_packaged_methods_are_the_published_figures_and_no_others() -> None:
    assert {m.id: {f.key: f.stated for f in m.factors} for m in methods.read_methods()} == PUBLISHED


def test_every_published_figure_is_exact_in_micrograms(session: Session) -> None:
    found = session.execute(sa.select(Factor.method_id, Factor.key, Factor.micrograms_per_unit)).all()
    expected = {
        (method_id, key): Fraction(stated.split()[0]) * MICROGRAMS_PER_METRE_OR_GRAM[stated.split()[1]]
        for method_id, factors in PUBLISHED.items()
        for key, stated in factors.items()
    }
    assert {(row.method_id, row.key): row.micrograms_per_unit for row in found} == expected


def test_every_factor_names_its_source_and_how_far_it_can_be_trusted() -> None:
    for method in methods.read_methods():
        assert method.source
        assert all(factor.source for factor in method.factors)
    found = packaged()
    assert {factor.confidence for factor in found[OTHER_TRAVEL].factors} == {Confidence.SECONDARY}
    assert all("non-local" in factor.note for factor in found[RECYCLING].factors)
    assert {f.key: f.confidence.value for f in found[DEFAULT_TRAVEL].factors} == {
        "bicycle": "C",
        "e-bike": "C",
        "bus": "V",
        "metro": "V",
    }


def test_the_conservative_set_is_the_default_and_caps_the_e_bike_at_the_bicycle(session: Session) -> None:
    assert methods.current_method(session, MethodKind.TRAVEL, TODAY).id == DEFAULT_TRAVEL
    assert methods.current_method(session, MethodKind.RECYCLING, TODAY).id == RECYCLING
    factors = methods.method_table(session).by_id[DEFAULT_TRAVEL].micrograms_per_unit
    assert factors["e-bike"] == factors["bicycle"]


def test_every_conservative_saving_is_below_the_claimed_one() -> None:
    conservative, claimed = (
        {f.key: f.micrograms_per_unit for f in packaged()[i].factors} for i in PUBLISHED if i != RECYCLING
    )
    if len(conservative) > len(claimed):
        conservative, claimed = claimed, conservative
    assert all(conservative[mode] < claimed[mode] for mode in conservative)


def method_file(folder: Path, old: str = "", new: str = "") -> Path:
    """A copy of the packaged files with one text in them replaced."""
    for path in methods.METHODS_DATA.glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        (folder / path.name).write_text(text.replace(old, new) if old else text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('saved = "26.9 g/km"', 'saved = "26.9 kg/kg"', "g/km for travel"),
        ('saved = "26.9 g/km"', 'saved = "26.90001 g/km"', "finer than a microgram"),
        ('saved = "26.9 g/km"', 'saved = "-26.9 g/km"', "g/km for travel"),
        ('saved = "26.9 g/km"', "saved = 26.9", "as text"),
        ('confidence = "V2"', 'confidence = "sure"', "sure"),
        ('key = "bus"', 'key = "metro"', "each key once"),
        ('id = "warm-v16"', 'id = "warm-v17"', "named after its id"),
        ('kind = "recycling"', 'kind = "cooking"', "cooking"),
        ("default = true", "default = false", "exactly one"),
        ("default = false", "default = true", "exactly one"),
        ("valid_from = 2022-01-01", 'valid_from = "2022"', "must be a date"),
        ('source = "哈啰单车', f'source = "{"长" * 300}', "longer than 300"),
        ('source = "哈啰单车 天津 2021"', 'source = ""', "a source"),
        ('title_en = "', f'title_en = "{"x" * 100}', "title_en"),
        ("valid_from = 2022-01-01", "valid_until = 2022-01-01", "exactly"),
    ],
)
def test_a_faulty_method_file_is_refused_by_name(tmp_path: Path, old: str, new: str, fault: str) -> None:
    with pytest.raises(MethodDataError, match=fault):
        methods.read_methods(method_file(tmp_path, old, new))


def test_comments_and_the_default_mark_are_no_part_of_a_methods_content(tmp_path: Path) -> None:
    path = method_file(tmp_path) / f"{OTHER_TRAVEL}.toml"
    path.write_text("# a remark\r\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    again = {method.id: method.content_sha256 for method in methods.read_methods(tmp_path)}
    assert again == {method.id: method.content_sha256 for method in methods.read_methods()}
    path.write_text(path.read_text(encoding="utf-8").replace("72 g/km", "72.1 g/km"), encoding="utf-8")
    assert {m.id: m.content_sha256 for m in methods.read_methods(tmp_path)}[OTHER_TRAVEL] != again[OTHER_TRAVEL]


# The arithmetic

quantities = st.integers(min_value=0, max_value=10**9)
factors = st.integers(min_value=0, max_value=10**9)
TABLE = {
    method_id: FactorSet(method_id, {f.key: f.micrograms_per_unit for f in data.factors})
    for method_id, data in packaged().items()
}


@given(factors, quantities)
def test_a_saving_is_the_exact_product_rounded_down(micrograms: int, quantity: int) -> None:
    assert saved_mg(micrograms, quantity) == floor(Fraction(micrograms, 1000) * quantity)


@given(st.sampled_from([DEFAULT_TRAVEL, OTHER_TRAVEL]), st.sampled_from(sorted(Behaviour)), quantities)
def test_a_trip_saves_its_published_grams_per_kilometre_rounded_down(
    method_id: str, mode: str, distance_m: int
) -> None:
    stated = PUBLISHED[method_id].get(mode, "0 g/km")
    grams_per_km = Fraction(stated.split()[0])
    assert travel_saved_mg(TABLE[method_id], mode, distance_m) == floor(grams_per_km * distance_m)


@given(st.sampled_from(sorted(PUBLISHED[RECYCLING])), quantities)
def test_recycling_saves_its_published_kilograms_per_kilogram_rounded_down(material: str, weight_g: int) -> None:
    expected = floor(Fraction(PUBLISHED[RECYCLING][material].split()[0]) * weight_g * 1000)
    assert recycling_saved_mg(TABLE[RECYCLING], material, weight_g) == expected


@given(factors, st.lists(quantities, min_size=2, max_size=20))
def test_a_longer_way_never_saves_less(micrograms: int, lengths: list[int]) -> None:
    savings = [saved_mg(micrograms, length) for length in sorted(lengths)]
    assert all(shorter <= longer for shorter, longer in pairwise(savings))


@given(factors, st.lists(quantities, max_size=20))
def test_parts_never_claim_more_than_the_whole(micrograms: int, parts: list[int]) -> None:
    assert sum(saved_mg(micrograms, part) for part in parts) <= saved_mg(micrograms, sum(parts))


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_a_saving_is_never_negative(micrograms: int, quantity: int) -> None:
    assert saved_mg(micrograms, quantity) >= 0


@given(st.text(max_size=20).filter(lambda key: key not in PUBLISHED[RECYCLING]), quantities)
def test_a_material_without_a_factor_saves_nothing(material: str, weight_g: int) -> None:
    assert recycling_saved_mg(TABLE[RECYCLING], material, weight_g) == 0


def test_textiles_are_kilograms_only_and_a_walk_under_the_default_is_points_only() -> None:
    assert recycling_saved_mg(TABLE[RECYCLING], "textiles", 5_000) == 0
    assert travel_saved_mg(TABLE[DEFAULT_TRAVEL], "walk", 5_000) == 0
    assert travel_saved_mg(TABLE[OTHER_TRAVEL], "walk", 5_000) == 520_000
    assert travel_saved_mg(TABLE[DEFAULT_TRAVEL], "metro", 12_345) == 577_746
    assert recycling_saved_mg(TABLE[RECYCLING], "hdpe", 1_000) == 836_000


# Loading


def test_loading_a_second_time_adds_nothing(session: Session) -> None:
    before = session.scalar(sa.select(sa.func.count()).select_from(Factor))
    assert methods.load(session, methods.read_methods(), on=TODAY) == []
    assert session.scalar(sa.select(sa.func.count()).select_from(Factor)) == before


def test_a_changed_file_under_an_old_id_is_refused(session: Session, tmp_path: Path) -> None:
    changed = methods.read_methods(method_file(tmp_path, "26.9 g/km", "27.9 g/km"))
    with pytest.raises(MethodChanged, match=DEFAULT_TRAVEL):
        methods.load(session, changed, on=TODAY)


def switched(to: str) -> list[MethodData]:
    """The packaged methods with another travel default."""
    return [
        replace(data, is_default=data.id == to) if data.kind is MethodKind.TRAVEL else data
        for data in methods.read_methods()
    ]


def test_a_new_default_takes_over_from_its_day_and_earlier_days_stay_the_old_ones(session: Session) -> None:
    takes_over = TODAY + timedelta(days=10)
    methods.load(session, switched(OTHER_TRAVEL), on=takes_over)
    table = methods.method_table(session)
    for day, expected in [(takes_over - timedelta(days=1), DEFAULT_TRAVEL), (takes_over, OTHER_TRAVEL)]:
        assert methods.current_method(session, MethodKind.TRAVEL, day).id == expected
        in_force = table.in_force(MethodKind.TRAVEL, day)
        assert in_force is not None
        assert in_force.method_id == expected
    # A late event of a day long before the newcomer's own first day as default is the old method's too.
    assert methods.current_method(session, MethodKind.TRAVEL, date(2024, 12, 1)).id == DEFAULT_TRAVEL


def test_a_method_that_has_ended_cannot_be_the_default_again(session: Session) -> None:
    methods.load(session, switched(OTHER_TRAVEL), on=TODAY)
    with pytest.raises(MethodDataError, match=DEFAULT_TRAVEL):
        methods.load(session, switched(DEFAULT_TRAVEL), on=TODAY)


def test_before_the_first_method_there_is_none(session: Session) -> None:
    with pytest.raises(MethodUnknown):
        methods.current_method(session, MethodKind.TRAVEL, date(2021, 12, 31))
    assert methods.method_table(session).in_force(MethodKind.TRAVEL, date(2021, 12, 31)) is None


def test_a_table_of_methods_cannot_be_changed(session: Session) -> None:
    factors_of_bus = methods.method_table(session).by_id[DEFAULT_TRAVEL].micrograms_per_unit
    with pytest.raises(TypeError):
        factors_of_bus["bus"] = 1  # type: ignore[index]  # the refusal is what is tested


# The database's own guards


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE carbon_factor SET micrograms_per_unit = 1 WHERE key = 'bus'",
        "DELETE FROM carbon_factor WHERE key = 'bus'",
        "UPDATE carbon_method SET source = 'another'",
        "UPDATE carbon_method SET valid_from = valid_from - 1",
        "UPDATE carbon_method SET factor_count = factor_count + 1",
        "DELETE FROM carbon_method",
        "TRUNCATE carbon_factor",
        "INSERT INTO carbon_factor (method_id, key, unit, micrograms_per_unit, stated, source, confidence)"
        " VALUES ('warm-v16', 'textiles', 'gram', 1, '0.001 kg/kg', 'nobody', 'R')",
    ],
)
def test_a_loaded_method_is_immutable(session: Session, statement: str) -> None:
    with refused(session):
        session.execute(sa.text(statement))


def test_there_is_one_default_of_each_kind(session: Session) -> None:
    with refused(session, IntegrityError):
        session.execute(sa.text(f"UPDATE carbon_method SET is_default = true WHERE id = '{OTHER_TRAVEL}'"))
    # Moving the mark within one transaction is what the loader does, and is allowed.
    session.execute(
        sa.text(f"UPDATE carbon_method SET is_default = false, valid_to = '2026-11-21' WHERE id = '{DEFAULT_TRAVEL}'")
    )
    session.execute(sa.text(f"UPDATE carbon_method SET is_default = true WHERE id = '{OTHER_TRAVEL}'"))
    with refused(session):
        session.execute(sa.text(f"UPDATE carbon_method SET valid_to = NULL WHERE id = '{DEFAULT_TRAVEL}'"))


@pytest.mark.parametrize(
    "change",
    [
        {"micrograms_per_unit": -1},
        {"micrograms_per_unit": 1_000_000_001},
        {"key": "Bus"},
        {"source": ""},
        {"unit": "mile"},
        {"confidence": "sure"},
        {"method_id": "no-such-method"},
    ],
)
def test_a_bad_factor_is_refused_by_the_database(session: Session, change: dict[str, object]) -> None:
    session.add(a_method("trial"))
    session.flush()
    good = {
        "method_id": "trial",
        "key": "bus",
        "unit": "metre",
        "micrograms_per_unit": 1,
        "stated": "0.001 g/km",
        "source": "trial",
        "confidence": "R",
    }
    insert = sa.text(
        "INSERT INTO carbon_factor (method_id, key, unit, micrograms_per_unit, stated, source, confidence)"
        " VALUES (:method_id, :key, :unit, :micrograms_per_unit, :stated, :source, :confidence)"
    )
    with refused(session, IntegrityError):
        session.execute(insert, good | change)
    session.execute(insert, good)


def a_method(method_id: str) -> Method:
    return Method(
        id=method_id,
        kind=MethodKind.TRAVEL,
        title_zh="试验",
        title_en="Trial",
        source="trial",
        confidence=Confidence.RECALLED,
        valid_from=TODAY,
        is_default=False,
        factor_count=1,
        content_sha256=bytes(32),
    )


# The replay


def an_activity(
    behaviour: Behaviour,
    mode: str,
    *,
    day: date = TODAY,
    distance_m: int | None = None,
    weight_g: int | None = None,
    saved_co2e_mg: int = 0,
    method_id: str | None = None,
    outcome: Outcome = Outcome.AWARDED,
) -> Activity:
    activity_id: UUID = new_id()
    noon = datetime(day.year, day.month, day.day, 4, tzinfo=UTC)
    return Activity(
        resident_id=new_id(),
        id=activity_id,
        behaviour=behaviour,
        mode=mode,
        grade=Grade.PARTNER_SIGNED,
        source="trial",
        external_id=str(activity_id),
        started_at=noon,
        ended_at=noon + timedelta(minutes=20),
        received_at=noon,
        business_day=day,
        community_code="120104001001",
        distance_m=distance_m,
        weight_g=weight_g,
        outcome=outcome,
        reason=None if outcome is Outcome.AWARDED else "revoked",
        saved_co2e_mg=saved_co2e_mg,
        method_id=method_id,
    )


def rides(mode: Behaviour, distances_m: list[int], **rest: object) -> list[Activity]:
    """Awarded rides, priced as the award path prices them."""
    default = TABLE[DEFAULT_TRAVEL]
    return [
        an_activity(
            mode,
            mode,
            distance_m=distance_m,
            saved_co2e_mg=travel_saved_mg(default, mode, distance_m),
            method_id=DEFAULT_TRAVEL if mode in default.micrograms_per_unit else None,
            **rest,  # type: ignore[arg-type]
        )
        for distance_m in distances_m
    ]


def test_replaying_under_the_recorded_method_gives_a_difference_of_exactly_0(session: Session) -> None:
    odd_lengths = [1, 7, 37, 999, 1_001, 12_345, 33_333]
    for mode in (Behaviour.BUS, Behaviour.METRO, Behaviour.BICYCLE, Behaviour.E_BIKE, Behaviour.WALK):
        session.add_all(rides(mode, odd_lengths))
    session.flush()

    done = replay(session, DEFAULT_TRAVEL, first_on=TODAY, last_on=TODAY)

    assert [(row.mode, row.activities, row.quantity) for row in done.rows] == [
        (mode, len(odd_lengths), sum(odd_lengths)) for mode in ("bicycle", "bus", "e-bike", "metro", "walk")
    ]
    assert [row.difference_mg for row in done.rows] == [0, 0, 0, 0, 0]


def test_replaying_under_another_method_sums_the_pure_function_over_each_activity(session: Session) -> None:
    lengths = [1, 7, 1_001, 12_345]
    session.add_all(rides(Behaviour.BICYCLE, lengths) + rides(Behaviour.WALK, lengths))
    session.flush()

    done = replay(session, OTHER_TRAVEL, first_on=TODAY, last_on=TODAY)

    def saved(method_id: str, mode: str) -> int:
        return sum(travel_saved_mg(TABLE[method_id], mode, length) for length in lengths)

    assert done.unit is FactorUnit.METRE
    assert done.rows == (
        ReplayRow(
            "bicycle", DEFAULT_TRAVEL, 4, 13_354, saved(DEFAULT_TRAVEL, "bicycle"), saved(OTHER_TRAVEL, "bicycle")
        ),
        ReplayRow("walk", None, 4, 13_354, 0, saved(OTHER_TRAVEL, "walk")),
    )
    assert done.rows[1].difference_mg > 0


def test_only_awarded_activities_of_the_period_and_the_kind_are_replayed(session: Session) -> None:
    session.add_all(
        [
            *rides(Behaviour.BUS, [1_000], day=TODAY - timedelta(days=1)),
            *rides(Behaviour.BUS, [2_000], day=TODAY),
            *rides(Behaviour.BUS, [4_000], day=TODAY + timedelta(days=1)),
            *rides(Behaviour.BUS, [8_000], day=TODAY + timedelta(days=2)),
            *rides(Behaviour.BUS, [16_000], outcome=Outcome.REVERSED),
            *rides(Behaviour.BUS, [32_000], outcome=Outcome.REFUSED),
            an_activity(Behaviour.RECYCLING, "glass", weight_g=500, saved_co2e_mg=152_000, method_id=RECYCLING),
            an_activity(Behaviour.RECYCLING, "textiles", weight_g=700),
            # A sorting drop whose category has the name of a material: it is weighed, and saves nothing.
            an_activity(Behaviour.SORTING, "glass", weight_g=900),
        ]
    )
    session.flush()

    travel = replay(session, DEFAULT_TRAVEL, first_on=TODAY, last_on=TODAY + timedelta(days=1))
    recycling = replay(session, RECYCLING, first_on=TODAY, last_on=TODAY)

    assert travel.rows == (ReplayRow("bus", DEFAULT_TRAVEL, 2, 6_000, 161_400, 161_400),)
    assert recycling.rows == (
        ReplayRow("glass", RECYCLING, 1, 500, 152_000, 152_000),
        ReplayRow("textiles", None, 1, 700, 0, 0),
    )


def test_an_unknown_method_cannot_be_replayed(session: Session) -> None:
    with pytest.raises(MethodUnknown):
        replay(session, "no-such-method", first_on=TODAY, last_on=TODAY)
