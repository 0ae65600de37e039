"""Two at once: the last place of a team, one person in two teams, and whoever joins while the campaign ends.

Two real connections, the first transaction held open, so that nothing depends on luck.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from district import COMMUNITY, District
from sqlalchemy.orm import Session

from campaigns.drives import campaigns, moves, participation, teams
from campaigns.drives.models import Campaign, CampaignState, Participation, TaskKind, Team, TeamKind
from campaigns.drives.moves import Move
from campaigns.drives.participation import CampaignClosed
from campaigns.drives.teams import AlreadyInTeam, CaptainMustPassOn, TeamFull
from campaigns.drives.terms import Question, TaskTerms
from campaigns.tasks import quizzes
from campaigns.tasks.quizzes import AttemptTwice
from server.access import Actor, Role
from server.clock import business_day, now
from server.database import new_id

DATA_KEY = bytes(32)
WAIT_S_MAX = 10.0


@dataclass
class Place:
    """A district with one running campaign of teams of two, its staff, and residents who joined."""

    district: District
    campaign_id: UUID
    staff: Actor
    people: list[Actor] = field(default_factory=list)

    def session(self) -> AbstractContextManager[Session]:
        """A session on a connection of its own, committed at the end."""
        return self.district.session()

    def team_of(self, captain: Actor) -> str:
        """A team and its code."""
        with self.session() as session:
            made = teams.create(
                session, captain, self.campaign_id, name=f"队{captain.id}"[:40], data_key=DATA_KEY, now=now()
            )
            assert made.join_code
            return made.join_code

    def enter(self, session: Session, person: Actor, code: str) -> None:
        """Join the team of a code."""
        teams.join(session, person, self.campaign_id, code=code, data_key=DATA_KEY, now=now())

    def value(self, query: Any) -> Any:
        """The one value that a query gives."""
        with self.session() as session:
            return session.scalar(query)


def resident(id_: UUID) -> Actor:
    return Actor(id=id_, role=Role.RESIDENT, session_id=new_id())


@pytest.fixture
def place(quiet_district: District) -> Place:
    runner = quiet_district.staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    staff = Actor(id=runner, role=Role.COMMUNITY_STAFF, session_id=new_id(), division=COMMUNITY)
    people = [resident(each) for each in quiet_district.residents(4)]
    today = business_day(now())
    given = {
        "title": "步行周",
        "division": COMMUNITY,
        "starts_on": today,
        "ends_on": today + timedelta(days=3),
        "team_kind": TeamKind.HOUSEHOLD,
        "team_size_min": 1,
        "team_size_max": 2,
    }
    with quiet_district.session() as session:
        campaign_id = campaigns.create(session, staff, given, now=now()).id
        moves.move(session, staff, campaign_id, Move.PUBLISH, now=now())
        for person in people:
            participation.join(session, person, campaign_id, now=now())
    return Place(quiet_district, campaign_id, staff, people)


def members(place: Place) -> list[tuple[int, int]]:
    """Each team's counter and the participations that name it."""
    real = sa.select(sa.func.count()).where(Participation.team_id == Team.id).scalar_subquery()
    with place.session() as session:
        rows = session.execute(sa.select(Team.members, real).where(Team.campaign_id == place.campaign_id))
        return sorted((row[0], row[1]) for row in rows)


def test_the_last_place_of_a_team_is_given_once(place: Place) -> None:
    captain, one, two, _ = place.people
    code = place.team_of(captain)
    with place.district.after_the_first(
        lambda session: place.enter(session, one, code), lambda session: place.enter(session, two, code)
    ) as later:
        assert later.result(WAIT_S_MAX) == TeamFull.code
    assert members(place) == [(2, 2)]


def test_one_person_does_not_enter_two_teams_at_once(place: Place) -> None:
    captain, other, person, _ = place.people
    here, there = place.team_of(captain), place.team_of(other)
    with place.district.after_the_first(
        lambda session: place.enter(session, person, here), lambda session: place.enter(session, person, there)
    ) as later:
        assert later.result(WAIT_S_MAX) == AlreadyInTeam.code
    assert members(place) == [(1, 1), (2, 2)]


def test_a_captain_who_was_alone_does_not_leave_past_somebody_who_joins(place: Place) -> None:
    captain, person, *_ = place.people
    code = place.team_of(captain)
    with place.district.after_the_first(
        lambda session: place.enter(session, person, code),
        lambda session: teams.leave(session, captain, place.campaign_id, now=now()),
    ) as later:
        assert later.result(WAIT_S_MAX) == CaptainMustPassOn.code
    assert members(place) == [(2, 2)]


def test_who_joins_while_the_campaign_ends_comes_before_it_or_not_at_all(place: Place) -> None:
    captain, person, *_ = place.people
    code = place.team_of(captain)

    def end(session: Session) -> None:
        moves.move(session, place.staff, place.campaign_id, Move.END, reason="提前结束", now=now())

    newcomer = resident(place.district.residents(1)[0])
    with place.district.after_the_first(
        lambda session: participation.join(session, newcomer, place.campaign_id, now=now()), end
    ) as later:
        assert place.value(state_of(place)) in (CampaignState.RUNNING, CampaignState.SETTLING)
        assert later.result(WAIT_S_MAX) == "done"
    assert place.value(sa.select(sa.func.count()).where(Participation.resident_id == newcomer.id)) == 1
    assert place.district.outcome(lambda session: place.enter(session, person, code)) == CampaignClosed.code
    assert members(place) == [(1, 1)]


@pytest.mark.parametrize("act", ["join", "team"])
def test_who_comes_while_the_end_is_being_written_is_refused(place: Place, act: str) -> None:
    captain, person, *_ = place.people
    code = place.team_of(captain)
    newcomer = resident(place.district.residents(1)[0])

    def come(session: Session) -> None:
        if act == "join":
            participation.join(session, newcomer, place.campaign_id, now=now())
        else:
            place.enter(session, person, code)

    def end(session: Session) -> None:
        moves.move(session, place.staff, place.campaign_id, Move.END, reason="提前结束", now=now())

    with place.district.after_the_first(end, come) as later:
        assert later.result(WAIT_S_MAX) == CampaignClosed.code
    assert place.value(sa.select(sa.func.count()).where(Participation.resident_id == newcomer.id)) == 0
    assert members(place) == [(1, 1)]


def test_of_two_publishers_at_once_one_publishes(place: Place) -> None:
    today = business_day(now())
    given = {"title": "周末", "division": COMMUNITY, "starts_on": today, "ends_on": today}
    with place.session() as session:
        draft = campaigns.create(session, place.staff, given, now=now()).id

    def publish(session: Session) -> None:
        moves.move(session, place.staff, draft, Move.PUBLISH, now=now())

    with place.district.after_the_first(publish, publish) as later:
        assert later.result(WAIT_S_MAX) == moves.CampaignMoveRefused.code


def test_of_two_attempts_at_once_one_is_counted(place: Place) -> None:
    today = business_day(now())
    person = place.people[0]
    question = one_question()
    given = {"title": "答题", "division": COMMUNITY, "starts_on": today, "ends_on": today, "tasks": [question]}
    with place.session() as session:
        quiz_id = campaigns.create(session, place.staff, given, now=now()).id
        moves.move(session, place.staff, quiz_id, Move.PUBLISH, now=now())
        participation.join(session, person, quiz_id, now=now())
        (task,) = campaigns.list_tasks(session, person, quiz_id)

    def attempt(session: Session) -> None:
        quizzes.attempt(session, person, quiz_id, task.id, answers=[frozenset({0})], now=now())

    with (
        place.district.after_the_first(attempt, attempt) as later,
        pytest.raises(sa.exc.IntegrityError, match="quiz_attempt"),
    ):
        later.result(WAIT_S_MAX)
    assert AttemptTwice.constraints == ("quiz_attempt_pkey",)


def one_question() -> Any:
    """A quiz of one question and one attempt."""
    question = Question("第1题", ("甲", "乙"), frozenset({0}))
    return TaskTerms(kind=TaskKind.QUIZ, title="答题", target=1, questions=(question,), attempts_max=1)


def state_of(place: Place) -> Any:
    """The state of the campaign."""
    return sa.select(Campaign.state).where(Campaign.id == place.campaign_id)
