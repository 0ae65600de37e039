"""Releases of the share: four eyes, never changed once public, reproducible, small streets withheld."""

import hashlib
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from points_builders import owner
from share_release_builders import (
    DEFINITION,
    DISTRICT,
    MARGINS,
    STREETS,
    district_actor,
    draft,
    made_up,
    published,
    small_wave,
    some_margins,
    street,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from points.share.estimate.exchange import STRICT
from points.share.estimate.process import EstimateFailed
from points.share.releases import jobs, platform_records, publication, releases, reproduction
from points.share.releases.goal import read_goal
from points.share.releases.models import MOVES, ReleaseState, ShareInput
from points.share.releases.publication import withheld_streets
from points.share.releases.releases import (
    CorrectsNothing,
    ReleaseStateWrong,
    ReleaseTooSmall,
    ReviewedByAnother,
    TooManyEstimates,
    Wanted,
    YearPublished,
)
from points.share.releases.routes import ShareOverviewView
from points.share.survey import waves
from points.share.survey.waves import WaveLocked, WaveUndone
from server import paging
from server.access import Role
from server.audit import AuditEntry
from server.clock import now
from server.errors import NotFound, PreconditionFailed, ReasonRequired
from server.paging import BadCursor
from server.settings import PLACES_DATA

LINE = read_goal(PLACES_DATA / "nankai")
REVIEW = {"remark": "核对了权重与边际"}


@pytest.fixture
def one(make_staff: Callable[..., UUID]) -> UUID:
    return make_staff(Role.DISTRICT, division=DISTRICT)


@pytest.fixture
def other(make_staff: Callable[..., UUID]) -> UUID:
    return make_staff(Role.DISTRICT, division=DISTRICT)


def place() -> dict[str, Any]:
    return {"district_code": DISTRICT, "now": now()}


# The way of a release


def test_a_draft_is_reviewed_by_another_person_and_then_published(session: Session, one: UUID, other: UUID) -> None:
    made = draft(session, one, made_up(0.77))
    assert (made.state, made.name) == (ReleaseState.DRAFT, "2025-1")
    with pytest.raises(ReviewedByAnother):
        releases.review(session, district_actor(one), made.id, **REVIEW, version=made.version, **place())
    with pytest.raises(ReleaseStateWrong):
        releases.publish(session, district_actor(other), made.id, version=made.version, **place())
    with pytest.raises(PreconditionFailed):
        releases.review(session, district_actor(other), made.id, **REVIEW, version=made.version + 1, **place())

    reviewed = releases.review(session, district_actor(other), made.id, **REVIEW, version=made.version, **place())
    done = releases.publish(session, district_actor(one), made.id, version=reviewed.version, **place())

    assert done.state is ReleaseState.PUBLISHED
    acts = session.scalars(
        sa.select(AuditEntry.act).where(AuditEntry.subject == f"share-release:{made.id}").order_by(AuditEntry.id)
    ).all()
    assert acts == ["share.compute", "share.review", "share.publish"]


def test_the_database_holds_four_eyes_whatever_the_code_says(session: Session, one: UUID) -> None:
    made = draft(session, one, made_up(0.77))
    refused(
        session,
        "UPDATE share_release SET state = 'reviewed', reviewed_by = computed_by, reviewed_at = now(), remark = 'x' "
        f"WHERE id = '{made.id}'",
        "share_release_reviewed_by_another_check",
    )


def refused(session: Session, statement: str, constraint: str) -> None:
    """The statement fails at this constraint, and the test goes on."""
    with pytest.raises(IntegrityError) as caught, session.begin_nested():
        session.execute(sa.text(statement))
    assert caught.value.orig.diag.constraint_name == constraint  # type: ignore[union-attr]


def test_what_is_published_never_changes(session: Session, one: UUID, other: UUID) -> None:
    done = published(session, one, other, made_up(0.77))
    here = f"WHERE id = '{done.id}'"
    for change in (
        "state = 'draft', published_by = NULL, published_at = NULL",
        "result = '{}'::bytea, result_sha256 = sha256('{}'::bytea)",
        "published_at = now()",
        "remark = 'better'",
        "version = version",
    ):
        refused(session, f"UPDATE share_release SET {change} {here}", "share_release_held")
    refused(session, f"DELETE FROM share_input WHERE release_id = '{done.id}'", "share_release_held")
    for decide, words in ((releases.review, REVIEW), (releases.discard, {"reason": "错了"})):
        with pytest.raises(ReleaseStateWrong):
            decide(session, district_actor(other), done.id, **words, version=done.version, **place())


def test_every_step_that_no_rule_allows_is_refused_by_the_database_too(session: Session, one: UUID) -> None:
    """The trigger's own list is that of MOVES: each state is reached, and every other step tried."""
    statement = sa.text("SELECT prosrc FROM pg_proc WHERE proname = 'hold_share_release'")
    source = session.execute(statement).scalar_one()
    held = {
        (before, after)
        for before in ReleaseState
        for after in ReleaseState
        if f"('{before.value}', '{after.value}')" in source
    }
    assert held == {(before, after) for before, follow in MOVES.items() for after in follow}
    made = draft(session, one, made_up(0.77))
    for state in ("published", "failed", "queued"):
        changes = f"state = '{state}'" + (", problem = 'x'" if state == "failed" else "")
        refused(session, f"UPDATE share_release SET {changes} WHERE id = '{made.id}'", "share_release_held")
    refused(
        session,
        f"UPDATE share_release SET result = '1'::bytea, result_sha256 = sha256('1'::bytea) WHERE id = '{made.id}'",
        "share_release_held",
    )
    refused(session, f"UPDATE share_input SET content = '' WHERE release_id = '{made.id}'", "share_release_held")
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), session.begin_nested():
        session.execute(sa.text("DELETE FROM share_release"))
    with pytest.raises(IntegrityError, match="append-only"), session.begin_nested(), owner(session):
        session.execute(sa.text("DELETE FROM share_release"))


def test_no_step_takes_the_figures_or_what_they_rest_on_with_it(
    session: Session, one: UUID, other: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = draft(session, one, made_up(0.77))
    review = f"state = 'reviewed', reviewed_by = '{other}', reviewed_at = now(), remark = 'x'"
    for change in (
        "result = 'a', result_sha256 = sha256('a')",
        "input_sha256 = sha256('a')",
        "options = '{}'",
        "year = 2024",
        f"computed_by = '{other}', reviewed_by = '{one}'",
    ):
        step = review if "reviewed_by" not in change else review.replace(f"reviewed_by = '{other}', ", "")
        refused(session, f"UPDATE share_release SET {step}, {change} WHERE id = '{made.id}'", "share_release_held")
    # Published over waves that can still be undone: the code forgets to lock them, the database does not.
    made = releases.review(session, district_actor(other), made.id, **REVIEW, version=made.version, **place())
    monkeypatch.setattr("points.share.survey.waves.lock", lambda *_: None)
    with pytest.raises(IntegrityError, match="locked waves"), session.begin_nested():
        releases.publish(session, district_actor(other), made.id, version=made.version, **place())


def test_the_hash_of_a_result_is_the_result_s(session: Session, one: UUID) -> None:
    queued = releases.request(
        session, district_actor(one), wanted(session), district_code=DISTRICT, jobs=None, now=now()
    )
    refused(
        session,
        "UPDATE share_release SET state = 'running', started_at = now(), computed_at = now(), input_sha256 = "
        "sha256(''), input_size_bytes = 1, code_version = 'x', result = 'a', result_sha256 = sha256('b'), "
        f"platform_records = '{{}}' WHERE id = '{queued.id}'",
        "share_release_computed_check",
    )
    releases.begin(session, queued.id, now=now())
    refused(
        session,
        "UPDATE share_release SET state = 'draft', computed_at = now(), input_sha256 = sha256(''), input_size_bytes "
        "= 1, code_version = 'x', result = 'a', result_sha256 = sha256('b'), platform_records = '{}' "
        f"WHERE id = '{queued.id}'",
        "share_release_result_sha256_check",
    )


def wanted(session: Session, year: int = 2025, **values: Any) -> Wanted:
    code = f"hts-{year}"
    if session.scalar(sa.text("SELECT count(*) FROM survey_wave WHERE code = :code").bindparams(code=code)) == 0:
        small_wave(session, code, year)
    return Wanted(year=year, waves=[code], **values)


def test_a_correction_is_a_new_release_that_names_the_old_one(session: Session, one: UUID, other: UUID) -> None:
    first = published(session, one, other, made_up(0.77))
    with pytest.raises(YearPublished):
        draft(session, one, made_up(0.75))
    with pytest.raises(ReasonRequired):
        draft(session, one, made_up(0.75), corrects=first.id, reason=" ")

    second = published(session, one, other, made_up(0.75), corrects=first.id, reason="权重有误")

    assert (second.name, second.corrects) == ("2025-2", first.id)
    with pytest.raises(CorrectsNothing):
        draft(session, one, made_up(0.76), corrects=first.id, reason="再更正")
    current = publication.current_release(session, 2025)
    assert current is not None
    assert current.name == "2025-2"
    page = publication.list_published(session, limit=1, cursor=None)
    assert [(each.name, each.corrected_by) for each in page.items] == [("2025-2", None)]
    page = publication.list_published(session, limit=1, cursor=page.next_cursor)
    assert [(each.name, each.corrected_by) for each in page.items] == [("2025-1", second.id)]
    with pytest.raises(BadCursor):
        publication.list_published(session, limit=1, cursor=paging.encode((2025, 10**9)))


def test_of_two_drafts_of_a_year_only_one_is_published(session: Session, one: UUID, other: UUID) -> None:
    drafts = [draft(session, one, made_up(share)) for share in (0.77, 0.75)]
    for made in drafts:
        releases.review(session, district_actor(other), made.id, **REVIEW, version=made.version, **place())
    releases.publish(session, district_actor(other), drafts[0].id, version=drafts[0].version, **place())
    with pytest.raises(IntegrityError, match="share_release_first_key"), session.begin_nested():
        releases.publish(session, district_actor(other), drafts[1].id, version=drafts[1].version, **place())
    assert "share_release_first_key" in YearPublished.constraints


def test_a_wave_under_a_published_release_stays_and_an_undone_one_is_never_published(
    session: Session, one: UUID, other: UUID
) -> None:
    published(session, one, other, made_up(0.77))
    locked = waves.wave_coded(session, "hts-2025")
    with pytest.raises(WaveLocked):
        waves.undo(session, district_actor(one), locked.id, now=now())

    made, kept = (draft(session, one, made_up(0.7, wave_codes=(f"hts-{year}",)), year=year) for year in (2024, 2023))
    waves.undo(session, district_actor(one), waves.wave_coded(session, "hts-2024").id, now=now())
    made = releases.review(session, district_actor(other), made.id, **REVIEW, version=made.version, **place())
    with pytest.raises(WaveUndone), session.begin_nested():
        releases.publish(session, district_actor(other), made.id, version=made.version, **place())
    # And the rows of its people do not live on in what was computed from them.
    assert releases.discard_undone(session, now=now()) == [made.id]
    session.expunge_all()
    assert [session.get(ShareInput, each.id) is None for each in (made, kept)] == [True, False]


def test_what_is_discarded_leaves_no_rows_about_people(session: Session, one: UUID) -> None:
    made = draft(session, one, made_up(0.77))
    assert session.get(ShareInput, made.id) is not None
    with pytest.raises(ReasonRequired):
        releases.discard(session, district_actor(one), made.id, reason=" ", version=made.version, **place())
    done = releases.discard(session, district_actor(one), made.id, reason="波次有误", version=made.version, **place())
    session.expunge_all()
    assert session.get(ShareInput, made.id) is None
    assert (done.state, done.discarded_because) == (ReleaseState.DISCARDED, "波次有误")
    with pytest.raises(ReleaseStateWrong):
        releases.input_of(session, done)


def test_a_release_of_nine_people_is_not_published(session: Session, one: UUID, other: UUID) -> None:
    made = draft(session, one, made_up(0.77, n=9))
    made = releases.review(session, district_actor(other), made.id, **REVIEW, version=made.version, **place())
    with pytest.raises(ReleaseTooSmall):
        releases.publish(session, district_actor(other), made.id, version=made.version, **place())


def test_only_three_estimates_wait_at_once_and_another_district_s_are_not_there(session: Session, one: UUID) -> None:
    asked = [
        releases.request(session, district_actor(one), wanted(session), district_code=DISTRICT, jobs=None, now=now())
        for _ in range(3)
    ]
    assert [each.revision for each in asked] == [1, 2, 3]
    with pytest.raises(TooManyEstimates):
        releases.request(session, district_actor(one), wanted(session), district_code=DISTRICT, jobs=None, now=now())
    with pytest.raises(NotFound):
        releases.release_for(session, district_actor(one), asked[0].id, district_code="120103")


# Computing


def test_the_job_computes_what_was_asked_for_and_it_can_be_computed_again(
    app: Flask, session: Session, one: UUID
) -> None:
    """The whole way: waves to input, the estimator in its process, the draft; and once more from the kept bytes."""
    wave = small_wave(session)
    some_margins(session)
    asked = releases.request(
        session,
        district_actor(one),
        Wanted(year=2025, waves=[wave.code], margin_set_code=MARGINS, options=options(replicates=50, seed=7)),
        district_code=DISTRICT,
        jobs=None,
        now=now(),
    )
    session.commit()
    with app.app_context():
        jobs.compute(asked.id)
    made = releases.release_named(session, "2025-1")
    assert (made.state, made.problem, made.problem_detail) == (ReleaseState.DRAFT, None, None)
    result = releases.result_of(made)
    strict = next(each for each in result.combined if each.reading == STRICT)
    # Of 90 people 23 drive and 9 ride an e-bike; weighting by sex moves the share a little.
    assert strict.estimate.share == pytest.approx(1 - (23 + 9) / 90, abs=0.03)
    assert result.weighted
    content = releases.input_of(session, made)
    assert hashlib.sha256(content).digest() == made.input_sha256
    assert session.execute(sa.text(f"SELECT locked FROM margin_set WHERE code = '{MARGINS}'")).scalar_one()

    done = app.test_cli_runner().invoke(args=["share", "reproduce", "2025-1"])
    assert done.exit_code == 0, done.output
    assert "every figure is the same, to the last digit" in done.output
    assert (made.result_sha256 or b"").hex() in done.output
    assert "CHANGED" not in done.output


def options(**values: Any) -> Any:
    return msgspec.convert({"margins": [], "adjustment_cells": [], **values}, releases.Options)


@pytest.mark.parametrize("problem", ["refused", "bug"])
def test_what_cannot_be_computed_says_why(
    app: Flask, session: Session, one: UUID, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    def broken(given: bytes) -> Any:
        raise EstimateFailed("no-trips", "Nobody made a trip") if problem == "refused" else RuntimeError

    monkeypatch.setattr("points.share.estimate.process.run", broken)
    asked = releases.request(
        session, district_actor(one), wanted(session), district_code=DISTRICT, jobs=None, now=now()
    )
    session.commit()
    with app.app_context():
        if problem == "refused":
            jobs.compute(asked.id)
        else:
            with pytest.raises(RuntimeError):
                jobs.compute(asked.id)
    found = releases.release_named(session, "2025-1")
    expected = ("estimate-failed", "no-trips: Nobody made a trip") if problem == "refused" else ("internal-error", None)
    assert (found.state, found.problem, found.problem_detail) == (ReleaseState.FAILED, *expected)


def test_a_run_that_was_taken_over_or_given_up_leaves_nothing(session: Session, one: UUID) -> None:
    asked = releases.request(
        session, district_actor(one), wanted(session), district_code=DISTRICT, jobs=None, now=now()
    )
    computed = releases.Computed(b"{}", made_up(0.77), "test", {})
    for attempt in (1, 2):
        begun = releases.begin(session, asked.id, now=now())
        assert begun is not None
        assert begun.attempts == attempt
    assert not releases.finish(session, asked.id, computed, attempt=1, now=now())
    releases.discard(session, district_actor(one), asked.id, reason="不要了", version=1, **place())
    assert not releases.finish(session, asked.id, computed, attempt=2, now=now())
    assert session.get(ShareInput, asked.id) is None
    assert releases.begin(session, asked.id, now=now()) is None


def test_a_difference_in_figures_or_in_libraries_is_told_apart() -> None:
    then = made_up(0.77)

    def compared(again: Any) -> reproduction.Reproduction:
        return reproduction.compare(
            then, again, kept_code_version="old", kept_input_sha256=hashlib.sha256(b"{}").digest(), content=b"{}"
        )

    same, other_library, other_figure = (
        compared(then),
        compared(msgspec.structs.replace(then, libraries={"svy": "0.36"})),
        compared(made_up(0.7701)),
    )
    assert (same.same_bytes, same.same_figures, same.difference_max) == (True, True, 0.0)
    assert (other_library.same_bytes, other_library.same_figures) == (False, True)
    assert other_library.libraries == (("svy", "0.35", "0.36"),)
    assert not other_figure.same_figures
    assert other_figure.difference_max == pytest.approx(0.0001)
    assert same.code_versions == ("old", reproduction.code_version())


# What is public


def test_small_streets_are_withheld_and_so_is_what_would_give_them_away() -> None:
    sizes = {"a": 9, "b": 30, "c": 400, "d": 500}
    assert withheld_streets([street(code, n) for code, n in sizes.items()]) == {"a", "b"}
    # Two small ones of ten together hide each other; of nine together they do not.
    assert withheld_streets([street("a", 4), street("b", 6), street("c", 50)]) == {"a", "b"}
    assert withheld_streets([street("a", 4), street("b", 5), street("c", 50), street("d", 60)]) == {"a", "b", "c"}
    assert withheld_streets([street("a", 10), street("b", 11)]) == frozenset()


def test_the_public_reads_published_releases_and_no_draft(
    client: FlaskClient, session: Session, one: UUID, other: UUID
) -> None:
    nothing = client.get("/api/v1/share").get_json()
    assert (nothing["latest"], nothing["answer"]["reason"]) == (None, "no-estimate")

    streets = tuple(street(code, n) for code, n in zip(STREETS, (300, 9, 40), strict=True))
    hidden = draft(session, one, made_up(0.6, wave_codes=("hts-2024",)), year=2024)
    done = published(session, one, other, made_up(0.78, streets=streets))
    session.commit()

    overview = client.get("/api/v1/share").get_json()
    assert ShareOverviewView().validate(overview) == {}, "the description says what is answered"
    latest = overview["latest"]
    assert latest["headline"]["name"] == "2025-1"
    assert latest["definition"]["id"] == DEFINITION
    assert latest["margins"]["population"] == "南开区6岁及以上常住人口"
    assert [(each["answer"], each["reason"]) for each in overview["answer"]["readings"]] == [
        ("met", "interval-above-line")
    ] * 2
    reading = latest["headline"]["readings"][0]
    assert (reading["estimate"]["n"], reading["estimate"]["n_effective"]) == (1800, 1200.0)
    seen = {each["street_code"]: each for each in reading["streets"]}
    assert [(seen[code]["withheld"], seen[code]["n"], seen[code]["modelled"]) for code in STREETS] == [
        (False, 300, False),
        (True, None, None),
        (True, None, None),
    ]
    assert seen[STREETS[1]]["share"] is None
    assert latest["proof"]["result_sha256"] == (done.result_sha256 or b"").hex()
    assert latest["platform_records"]["label_zh"] == "平台记录占比"
    # A draft is nowhere, and neither is who worked on what is published.
    assert client.get(f"/api/v1/share/releases/{hidden.id}").status_code == 404
    whole = json.dumps(overview) + client.get("/api/v1/share/releases").get_data(as_text=True)
    assert "2024-1" not in whole
    assert str(one) not in whole
    assert str(other) not in whole
    detail = client.get(f"/api/v1/share/releases/{done.id}")
    assert (detail.status_code, detail.headers["Cache-Control"]) == (200, "public, max-age=60")
    assert detail.get_json() == latest


def test_an_estimate_without_margins_is_called_unweighted_and_not_set_against_the_goal(
    client: FlaskClient, session: Session, one: UUID, other: UUID
) -> None:
    published(session, one, other, made_up(0.9, weighted=False))
    session.commit()
    overview = client.get("/api/v1/share").get_json()
    assert overview["latest"]["headline"]["weighted"] is False
    assert (overview["answer"]["answer"], overview["answer"]["reason"]) == ("cannot-be-told-yet", "unweighted")
    assert overview["answer"]["target"] is None
    assert overview["trends"][0]["points"][0]["left_out"] == "unweighted"


def test_the_trend_is_of_comparable_published_years(session: Session, one: UUID, other: UUID) -> None:
    for year, share in ((2023, 0.71), (2024, 0.73), (2025, 0.74)):
        published(session, one, other, made_up(share, wave_codes=(f"hts-{year}",)), year=year)
    assert [len(each.trend.projected) for each in publication.trends(session, until=2030) if each.trend] == [8, 8]
    doubted = made_up(0.9, wave_codes=("hts-2026",), cautions=("selection-on-outcome",))
    published(session, one, other, doubted, year=2026)
    strict = publication.trends(session, until=2030)[0]
    assert [(point.year, point.left_out) for point in strict.points] == [
        (2023, None),
        (2024, None),
        (2025, None),
        (2026, "estimate-doubted"),
    ]
    assert publication.standing(session, LINE, today=now().date()).answer.reason == "estimate-doubted"


def test_platform_records_are_rounded_and_modes_of_few_residents_are_not_among_them(
    session: Session, make_resident: Callable[..., UUID]
) -> None:
    day = now().date()
    for behaviour, people, trips in (("bus", 10, 7004), ("metro", 9, 9000), ("walk", 12, 3001)):
        for _ in range(people):
            session.execute(
                sa.text(
                    "INSERT INTO resident_day (resident_id, day, behaviour, community_code, activities, distance_m, "
                    "weight_g, saved_co2e_mg, points) VALUES (:id, :day, :behaviour, '120104001001', 1, 0, 0, 0, 0)"
                ),
                {"id": make_resident(), "day": day, "behaviour": behaviour},
            )
        session.execute(
            sa.text(
                "INSERT INTO community_day (community_code, day, behaviour, mode, activities, distance_m, weight_g, "
                "saved_co2e_mg, points) VALUES ('120104001001', :day, :behaviour, 'x', :trips, 0, 0, 0, 0)"
            ),
            {"day": day, "behaviour": behaviour, "trips": trips},
        )
    kept = platform_records.platform_records(session, district_code=DISTRICT, year=day.year, today=day)
    shares = {each["mode"]: each["share"] for each in kept["modes"]}
    assert shares == {"metro": None, "bus": 0.7, "bicycle": None, "walk": 0.3, "e-bike": None}
    assert kept["trips_about"] == 10_000
    few = platform_records.platform_records(session, district_code="120103", year=day.year, today=day)
    assert few["trips_about"] is None


# Over HTTP and at the machine


def test_staff_compute_review_and_publish_over_http(
    client: FlaskClient,
    session: Session,
    headers_of: Callable[..., dict[str, str]],
    sign_in_staff: Callable[..., dict[str, str]],
    one: UUID,
    other: UUID,
) -> None:
    small_wave(session)
    session.commit()
    mine, yours = headers_of(one, is_resident=False), headers_of(other, is_resident=False)
    entry = {"year": 2025, "waves": ["hts-2025"]}
    street_staff = sign_in_staff(Role.STREET, division=STREETS[0])
    assert client.post("/api/v1/share/releases", json=entry, headers=street_staff).status_code == 403
    for wrong in ({"waves": ["no"]}, {"reason": "为何"}, {"corrects": str(one), "reason": "为何"}, {"margins": "no"}):
        assert client.post("/api/v1/share/releases", json=entry | wrong, headers=mine).status_code == 422, wrong
    keyed = mine | {"Idempotency-Key": "compute-2025"}
    asked = [client.post("/api/v1/share/releases", json=entry, headers=keyed) for _ in range(2)]
    assert [each.status_code for each in asked] == [202, 202]
    assert asked[0].get_json() == asked[1].get_json()
    draft_id = asked[0].get_json()["id"]
    assert session.execute(sa.text("SELECT args FROM procrastinate_jobs WHERE task_name = 'share:compute'")).all() == [
        ({"release_id": draft_id},)
    ]
    _finish(session, UUID(draft_id))

    found = client.get(f"/api/v1/share/drafts/{draft_id}", headers=yours)
    assert found.get_json()["release"]["headline"]["weighted"] is False
    review = f"/api/v1/share/releases/{draft_id}/review"
    assert client.post(review, json=REVIEW, headers=yours).status_code == 428
    tagged = {"If-Match": found.headers["ETag"]}
    own = client.post(review, json=REVIEW, headers=mine | tagged)
    assert (own.status_code, own.get_json()["code"]) == (409, "reviewed-by-another")
    reviewed = client.post(review, json=REVIEW, headers=yours | tagged)
    assert (reviewed.status_code, reviewed.get_json()["state"]) == (200, "reviewed")
    publish = f"/api/v1/share/releases/{draft_id}/publication"
    assert client.post(publish, headers=yours | tagged).status_code == 412
    done = client.post(publish, headers=yours | {"If-Match": reviewed.headers["ETag"]})
    assert (done.status_code, done.get_json()["state"]) == (200, "published")
    assert client.get("/api/v1/share/drafts", headers=mine).get_json()["items"] == []


def _finish(session: Session, release_id: UUID) -> None:
    begun = releases.begin(session, release_id, now=now())
    assert begun is not None
    records = platform_records.platform_records(session, district_code=DISTRICT, year=2025, today=now().date())
    computed = releases.Computed(b"{}", made_up(0.77, weighted=False), "test", records)
    assert releases.finish(session, release_id, computed, attempt=begun.attempts, now=now())
    session.commit()


def test_commands_name_two_people_and_tell_whether_the_goal_is_met(
    app: Flask, session: Session, one: UUID, other: UUID
) -> None:
    draft(session, one, made_up(0.76))
    session.commit()
    names = {row.id: row.name for row in session.execute(sa.text("SELECT id, name FROM staff"))}
    runner = app.test_cli_runner()

    def share(*words: str) -> tuple[int, str]:
        done = runner.invoke(args=["share", *words])
        return done.exit_code, done.output

    review = ("review", "2025-1", "--remark", "核对了权重与边际", "--as")
    code, said = share(*review, names[one])
    assert (code, "reviewed-by-another" in said) == (1, True), said
    assert share(*review, "nobody")[0] == 1
    assert share(*review, names[other])[0] == 0
    assert share("publish", "2025-1", "--as", names[other])[0] == 0
    code, said = share("goal")
    assert code == 0, said
    assert "goal 2025: cannot-be-told-yet  (line 75.0%; readings-differ)" in said
    assert "respondents would tell" in said
    assert f"trend strict  {DEFINITION}: not from fewer than three comparable years" in said
    assert "2025-1" in share("releases")[1]
