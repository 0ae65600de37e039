"""What the tests of check-ins, budgets and settlement are built from: campaigns in any state, tasks, people, slots."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.attendance.models import CheckIn, CheckInSlot, CheckInWay, SlotKind
from campaigns.drives.models import (
    Campaign,
    CampaignState,
    CampaignTask,
    Participation,
    RewardMode,
    TargetMeasure,
    TaskKind,
    TaskSubject,
    Team,
)
from points.earning.models import Behaviour, ResidentDay
from points.ledger import budgets, verification
from server.clock import business_day, now
from server.database import new_id

COMMUNITY, NEIGHBOUR = "120104001001", "120104001003"
STREET, OTHER_STREET, DISTRICT = "120104001", "120104002", "120104"

Headers = dict[str, str]


def a_campaign(
    session: Session,
    staff_id: UUID,
    *,
    state: CampaignState = CampaignState.RUNNING,
    mode: RewardMode = RewardMode.AT_SETTLEMENT,
    at: datetime | None = None,
    **values: Any,
) -> Campaign:
    """A campaign from three days ago to three days ahead."""
    instant = at or now()
    today = business_day(instant)
    begun = instant - timedelta(days=3)
    made = Campaign(
        **{
            "id": new_id(),
            "title": "步行周",
            "description": "",
            "division": COMMUNITY,
            "starts_on": today - timedelta(days=3),
            "ends_on": today + timedelta(days=3),
            "state": state,
            "reward_mode": mode,
            "terms_version": 1,
            "created_by": staff_id,
            "created_at": begun,
            "published_at": begun,
            "running_at": begun,
            "settling_at": begun,
            **values,
        }
    )
    session.add(made)
    session.commit()
    return made


def a_task(
    session: Session,
    campaign: Campaign,
    *,
    position: int = 1,
    kind: TaskKind = TaskKind.CHECK_IN,
    target: int = 1,
    reward: int = 10,
    subject: TaskSubject = TaskSubject.PERSON,
    **values: Any,
) -> CampaignTask:
    """A task: checking in once unless told otherwise."""
    if kind is TaskKind.BEHAVIOUR:
        values = {"behaviours": [Behaviour.WALK.value], "measure": TargetMeasure.DISTANCE_M, **values}
    made = CampaignTask(
        campaign_id=campaign.id,
        id=new_id(),
        position=position,
        kind=kind,
        subject=subject,
        title=f"任务 {position}",
        target=target,
        reward_points=reward,
        **values,
    )
    session.add(made)
    session.commit()
    return made


def joined(session: Session, campaign: Campaign, resident_id: UUID, team: Team | None = None) -> UUID:
    """The resident, who takes part now."""
    session.add(
        Participation(
            resident_id=resident_id,
            campaign_id=campaign.id,
            community_code=COMMUNITY,
            joined_at=now(),
            team_id=None if team is None else team.id,
        )
    )
    session.commit()
    return resident_id


def a_team(session: Session, campaign: Campaign, captain: UUID, *, name: str = "三年二班", members: int = 2) -> Team:
    """A team whose captain has still to join it."""
    made = Team(
        campaign_id=campaign.id,
        id=new_id(),
        name=name,
        captain_id=captain,
        join_code_hash=new_id().bytes * 2,
        members=members,
        size_max=50,
        created_at=now(),
    )
    session.add(made)
    session.commit()
    return made


def a_slot(session: Session, campaign: Campaign, **values: Any) -> CheckInSlot:
    """A visit's slot, open from an hour ago to an hour ahead."""
    made = CheckInSlot(
        **{
            "id": new_id(),
            "campaign_id": campaign.id,
            "kind": SlotKind.VISIT,
            "site_name": "社区广场",
            "opens_at": now() - timedelta(hours=1),
            "closes_at": now() + timedelta(hours=1),
            "taken": 0,
            "version": 1,
            "created_by": campaign.created_by,
            "created_at": now(),
            **values,
        }
    )
    session.add(made)
    session.commit()
    return made


def was_there(session: Session, slot: CheckInSlot, resident_id: UUID, **values: Any) -> None:
    """The resident has checked in at the slot."""
    session.add(
        CheckIn(
            **{
                "resident_id": resident_id,
                "slot_id": slot.id,
                "campaign_id": slot.campaign_id,
                "way": CheckInWay.ROTATING,
                "day": business_day(now()),
                "checked_in_at": now(),
                "minutes": 0,
                **values,
            }
        )
    )
    session.commit()


def walked(session: Session, resident_id: UUID, metres: int) -> None:
    """The resident has walked today, as the award would have counted it."""
    session.add(
        ResidentDay(
            resident_id=resident_id,
            day=business_day(now()),
            behaviour=Behaviour.WALK,
            community_code=COMMUNITY,
            activities=1,
            distance_m=metres,
            weight_g=0,
            saved_co2e_mg=0,
            points=0,
        )
    )
    session.commit()


def with_budget(session: Session, campaign: Campaign, points: int) -> int:
    """Put points into the campaign's budget; its account."""
    if campaign.account_id is None:
        campaign.account_id = budgets.open_account(session, f"campaign:{campaign.id}", campaign.title)
        session.flush()
    budgets.allot(session, campaign.account_id, points, allotment_id=new_id(), now=now())
    session.commit()
    return campaign.account_id


def points_of(session: Session, resident_id: UUID) -> int:
    """What the resident's lots hold."""
    total = session.scalar(
        sa.text("SELECT coalesce(sum(remaining_points), 0) FROM lot WHERE resident_id = :r"), {"r": resident_id}
    )
    return int(total or 0)


def ledger_faults(session: Session) -> dict[str, Any]:
    """Every check of the ledger that fails, with the first row that is wrong."""
    found = verification.run(session, verification.LEDGER_CHECKS)
    return {each.name: each.first_wrong for each in found if each.first_wrong is not None}


def refused(answer: Any, status: int, code: str) -> None:
    """The answer is this problem."""
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text
    assert answer.content_type == "application/problem+json"
