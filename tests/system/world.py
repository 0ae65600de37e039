"""Everything that an address can name, each piece of it somebody's, and people of every role around it.

What belongs together is one bundle: the parameters of addresses that name its parts, and who may see it.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import msgspec
import sqlalchemy as sa
from world_of_evidence import APPEALED, BOOKED, CARDS_ISSUED, HOUSEHOLD_ASSISTED, link_staff, vouched_things
from world_parts import (
    DISTRICT,
    HOME,
    NEXT_DOOR,
    OFFICES,
    OTHER_DISTRICT,
    OTHER_STREET,
    Bundle,
    Makers,
    World,
    seen,
)

from campaigns.annual_report.content import Content
from campaigns.annual_report.models import DOCUMENT, AnnualReport, AnnualReportFile, ReportState
from campaigns.attendance.models import CheckIn, CheckInSlot, CheckInWay, SlotKind
from campaigns.creation import programmes
from campaigns.creation.models import (
    Application,
    ApplicationEvidence,
    ApplicationMove,
    Assessment,
    AssessorConflict,
    Objection,
    ObjectionFile,
    PublicNotice,
    Rubric,
    RubricItem,
    RubricState,
    SiteVisit,
    SiteVisitPhoto,
    SubjectKind,
)
from campaigns.creation.rubric_entries import read_programmes, read_rubrics
from campaigns.creation.steps import MOVES, ApplicationState, Move
from campaigns.drives import promises, teams
from campaigns.drives.models import (
    Campaign,
    CampaignState,
    CampaignTask,
    Participation,
    TaskKind,
    TaskSubject,
    Team,
    TeamKind,
)
from campaigns.settlement.models import (
    BudgetRequest,
    BudgetRequestState,
    Certificate,
    Settlement,
    SettlementState,
)
from campaigns.tasks.models import TaskEvidence
from points.earning.award import award
from points.earning.claims import Claim
from points.earning.models import Behaviour, Grade
from points.ledger import entries
from points.ledger.models import ISSUANCE, Transfer, TransferKind
from points.partners import bindings, registry
from points.share.diaries import rounds
from points.share.diaries.rounds import RoundPlan
from points.share.releases.models import ReleaseState, ShareRelease
from points.share.survey.microdata import PersonRow, WaveRows, write_wave
from points.share.survey.models import MarginCell, MarginSet, WaveKind
from server.access import Actor, Role
from server.clock import business_day
from server.database import new_id
from server.exports.models import Export, ExportFormat, ExportState
from server.files.store import store
from server.notices import notices
from server.notices.models import Notice
from server.people.join_codes import hashed
from server.people.models import OrganisationMembership
from server.places.models import Confidence, Division, DivisionLevel, Organisation, OrganisationKind
from server.request_signatures import new_key

JOIN_CODE = "AAAA-AAAA"

STREETS = frozenset({"street", "another street"})
DEFINITION = "green-travel-2020"


def build(make: Makers, *, shared_partner: str) -> World:
    """The world: a resident's own, the campaigns and applications of a community, two schools and a mall, and staff."""
    add_other_district(make)
    places = {
        name: Organisation(
            id=new_id(), kind=kind, name=name, community_code=HOME, valid_from=business_day(make.instant)
        )
        for name, kind in (
            ("一小", OrganisationKind.SCHOOL),
            ("二小", OrganisationKind.SCHOOL),
            ("商场", OrganisationKind.MALL),
            ("另一商场", OrganisationKind.MALL),
        )
    }
    make.add(*places.values())
    ids = {name: place.id for name, place in places.items()}
    people = people_around(make, ids)
    person = {name: id for name, (_, id) in people.items()}
    link_staff(make, [id for role, id in people.values() if role is not Role.RESIDENT])
    with make.app.app_context():
        bundles = {
            **own_things(make, person, shared_partner),
            **staff_things(make, person),
            **organisations(ids),
            **campaigns(make, person, ids),
            **applications(make, person, ids),
            **share_things(make, person),
            **vouched_things(make, person),
        }
        make.add(*(membership(person["owner"], ids[name], make.instant) for name in ("一小", "商场")))
        make.session.commit()
    insiders: dict[Role, str] = {}
    for name, (role, _) in people.items():
        insiders.setdefault(role, name)
    for name in sorted({name for bundle in bundles.values() for name in bundle.seen_by}):
        assert name in people, name
    in_force = sa.select(Rubric.id).where(Rubric.programme_code == "green-school", Rubric.state == RubricState.IN_FORCE)
    return World(people, bundles, insiders, ids, {"rubric_id": make.session.scalars(in_force).one()})


def people_around(make: Makers, ids: Mapping[str, UUID]) -> dict[str, tuple[Role, UUID]]:
    """Everybody: first of each role an insider, then those who have nothing to do with most of it."""
    resident, staff, district = make.resident, make.staff, HOME[:6]
    people = {
        "owner": (Role.RESIDENT, resident(HOME, nickname="阿明", born_in=1990)),
        "community": (Role.COMMUNITY_STAFF, staff(Role.COMMUNITY_STAFF, division=HOME)),
        "school": (Role.SCHOOL_STAFF, staff(Role.SCHOOL_STAFF, organisation=ids["一小"])),
        "mall": (Role.ORGANISATION_STAFF, staff(Role.ORGANISATION_STAFF, organisation=ids["商场"])),
        "assessor": (Role.ASSESSOR, staff(Role.ASSESSOR, division=district)),
        "street": (Role.STREET, staff(Role.STREET, division=HOME[:9])),
        "supervisor": (Role.SUPERVISOR, staff(Role.SUPERVISOR, division=HOME)),
        "collector": (Role.COLLECTOR, staff(Role.COLLECTOR, division=HOME[:9])),
        "district": (Role.DISTRICT, staff(Role.DISTRICT, division=district)),
        "operator": (Role.OPERATOR, staff(Role.OPERATOR, division=district)),
        # Of the same place, with nothing of one's own in it.
        "neighbour": (Role.RESIDENT, resident(HOME)),
        "team-mate": (Role.RESIDENT, resident(HOME)),
        "another school": (Role.SCHOOL_STAFF, staff(Role.SCHOOL_STAFF, organisation=ids["二小"])),
        "another mall": (Role.ORGANISATION_STAFF, staff(Role.ORGANISATION_STAFF, organisation=ids["另一商场"])),
        "assessor of another": (Role.ASSESSOR, staff(Role.ASSESSOR, division=district)),
        "assessor of nothing": (Role.ASSESSOR, staff(Role.ASSESSOR, division=district)),
        "collector's colleague": (Role.COLLECTOR, staff(Role.COLLECTOR, division=HOME[:9])),
        "colleague at the district": (Role.DISTRICT, staff(Role.DISTRICT, division=district)),
        # Of another place.
        "resident next door": (Role.RESIDENT, resident(NEXT_DOOR)),
        "resident of nowhere": (Role.RESIDENT, resident(None)),
        "community next door": (Role.COMMUNITY_STAFF, staff(Role.COMMUNITY_STAFF, division=NEXT_DOOR)),
        "supervisor next door": (Role.SUPERVISOR, staff(Role.SUPERVISOR, division=NEXT_DOOR)),
        "collector of another street": (Role.COLLECTOR, staff(Role.COLLECTOR, division=OTHER_STREET[:9])),
        "community of another street": (Role.COMMUNITY_STAFF, staff(Role.COMMUNITY_STAFF, division=OTHER_STREET)),
        "another street": (Role.STREET, staff(Role.STREET, division=OTHER_STREET[:9])),
        "another district": (Role.DISTRICT, staff(Role.DISTRICT, division=OTHER_DISTRICT)),
        "another district's operator": (Role.OPERATOR, staff(Role.OPERATOR, division=OTHER_DISTRICT)),
        "another district's assessor": (Role.ASSESSOR, staff(Role.ASSESSOR, division=OTHER_DISTRICT)),
    }
    roles = [role for role, _ in people.values()]
    assert set(roles) == set(Role), "a new role needs an insider and an outsider here"
    assert all(roles.count(role) >= 2 for role in Role), "a new role needs an insider and an outsider here"
    return people


def add_other_district(make: Makers) -> None:
    """A division outside the district."""
    edition_on = datetime(2023, 6, 30, tzinfo=UTC).date()
    make.add(
        Division(
            code=OTHER_DISTRICT,
            level=DivisionLevel.DISTRICT,
            name="河西区",
            parent_code=None,
            edition_on=edition_on,
            valid_from=edition_on,
        )
    )


def membership(resident_id: UUID, organisation_id: UUID, instant: datetime) -> OrganisationMembership:
    """A resident's membership from now on."""
    return OrganisationMembership(resident_id=resident_id, organisation_id=organisation_id, joined_at=instant)


# One's own


def own_things(make: Makers, person: Mapping[str, UUID], shared_partner: str) -> dict[str, Bundle]:
    """What a resident has to themselves: points, an activity, a binding, a message."""
    owner, instant = person["owner"], make.instant
    entries.grant(
        make.session,
        owner,
        10,
        account_id=ISSUANCE,
        expires_on=business_day(instant) + timedelta(days=30),
        reason="test",
        now=instant,
    )
    registry.create(
        make.session,
        shared_partner,
        name_zh="合作方",
        kinds=["ride"],
        day_budget_points=0,
        key=new_key(),
        data_key=make.settings.data_key,
        now=instant,
    )
    bindings.bind(make.session, owner, shared_partner, "m-1", now=instant)
    grant = sa.select(Transfer.id).where(Transfer.resident_id == owner, Transfer.kind == TransferKind.GRANT)
    parts = {
        "resident_id": owner,
        "transfer_id": make.session.scalars(grant).one(),
        "activity_id": recorded_activity(make, owner),
    }
    # An operator opens and closes accounts, and has the permission for nothing else of a resident's.
    around = DISTRICT | {"owner", "operator"}
    return {
        "the resident's own": Bundle(
            ("/api/v1/residents/", "/api/v1/me/activities/"),
            parts,
            around,
            beside=(CARDS_ISSUED, APPEALED, HOUSEHOLD_ASSISTED, BOOKED),
        ),
        **{f"a message to the {name}": message(make, person[name], name) for name in ("owner", "school", "assessor")},
    }


def recorded_activity(make: Makers, owner: UUID) -> UUID:
    """A resident's sorting of an hour ago."""
    at = make.instant - timedelta(hours=1)
    claim = Claim(
        resident_id=owner,
        behaviour=Behaviour.SORTING,
        mode="kitchen",
        grade=Grade.PARTNER_SIGNED,
        source="test",
        external_id="e-1",
        started_at=at,
        ended_at=at,
        received_at=make.instant,
    )
    made = award(make.session, [claim], now=make.instant)[0].activity_id
    assert made is not None
    return made


def message(make: Makers, person_id: UUID, name: str) -> Bundle:
    """A message that one person was left."""
    notices.tell(
        make.session, [person_id], kind="test", subject="test", title_zh="测试", title_en="A test", now=make.instant
    )
    told = make.session.scalars(sa.select(Notice.id).where(Notice.person_id == person_id)).one()
    return Bundle(("/api/v1/me/notices/",), {"notice_id": told}, seen(name))


def staff_things(make: Makers, person: Mapping[str, UUID]) -> dict[str, Bundle]:
    """Accounts, ties and exports."""
    tie = AssessorConflict(
        id=new_id(),
        staff_id=person["assessor"],
        division=OTHER_STREET,
        reason="亲属在此居住",
        declared_by=person["assessor"],
        declared_at=make.instant,
    )
    make.add(tie)
    member = make.staff(Role.COMMUNITY_STAFF, division=HOME)
    link_staff(make, [member])
    return {
        "an account": Bundle(("/api/v1/staff/",), {"staff_id": member}, DISTRICT | {"operator"}),
        "a tie": Bundle(("/api/v1/creation/ties/",), {"tie_id": tie.id}, DISTRICT | {"assessor"}),
        **{f"an export of the {name}": export(make, person[name], name) for name in ("district", "school")},
    }


def export(make: Makers, person_id: UUID, name: str) -> Bundle:
    """A finished export, which is nobody's but whose who asked for it."""
    content, store_name = b"a,b\r\n", f"exports/{person_id.hex}.csv"
    store().write(store_name, content)
    made = Export(
        id=new_id(),
        kind="test",
        format=ExportFormat.CSV,
        arguments={},
        state=ExportState.DONE,
        slot=1,
        attempts=1,
        requested_by=person_id,
        requested_at=make.instant,
        started_at=make.instant,
        finished_at=make.instant,
        columns=["a", "b"],
        sha256=hashlib.sha256(content).digest(),
        size_bytes=len(content),
        store_name=store_name,
        expires_at=make.instant + timedelta(days=1),
    )
    make.add(made)
    return Bundle(("/api/v1/exports/",), {"export_id": made.id}, seen(name))


def organisations(ids: Mapping[str, UUID]) -> dict[str, Bundle]:
    """The organisations; their members see them, and who answers for the community."""
    under = ("/api/v1/organisations/", "/api/v1/me/memberships/", "/api/v1/places/organisations/")
    return {
        f"the organisation {name}": Bundle(under, {"organisation_id": id}, OFFICES | {"community", *own})
        for (name, id), own in zip(
            ids.items(), (("school", "owner"), ("another school",), ("mall", "owner"), ("another mall",)), strict=True
        )
    }


# The green-travel share, and the year's report


def share_things(make: Makers, person: Mapping[str, UUID]) -> dict[str, Bundle]:
    """A wave, margins, an estimate on its way, a round of diaries for which the owner was drawn, and a draft report.

    All of it is the district's, and made by somebody of whom nobody here knows: four eyes stop none of them.
    """
    maker = make.staff(Role.DISTRICT, division=HOME[:6])
    wave = write_wave(make.session, small_wave(make.instant), imported_by=maker, now=make.instant)
    margins = MarginSet(
        code="census-2020-margins",
        population="六岁及以上常住人口",
        source="测试",
        confidence=Confidence.RECALLED,
        as_of=business_day(make.instant),
        age_min=6,
        persons=100,
        content_sha256=bytes(32),
        loaded_at=make.instant,
    )
    cell = MarginCell(set_code=margins.code, variable="sex", category="male", persons=100)
    release = ShareRelease(
        id=new_id(),
        year=wave.year,
        revision=1,
        state=ReleaseState.QUEUED,
        definition_id=DEFINITION,
        options={},
        computed_by=maker,
        requested_at=make.instant,
    )
    make.add(margins, cell, release)
    round_id = opened_round(make, maker)
    report = drafted_report(make, maker)
    return {
        "a wave": Bundle(("/api/v1/share/waves/",), {"wave_id": wave.id}, DISTRICT),
        "margins": Bundle(("/api/v1/share/margins/",), {"code": margins.code}, DISTRICT | STREETS),
        "an estimate": Bundle(
            ("/api/v1/share/drafts/", "/api/v1/share/releases/"), {"release_id": release.id}, DISTRICT
        ),
        "a round of diaries": Bundle(("/api/v1/share/rounds/",), {"round_id": round_id}, DISTRICT | STREETS),
        "the owner's diary": Bundle(("/api/v1/me/diaries/",), {"round_id": round_id}, seen("owner")),
        "a draft report": Bundle(
            ("/api/v1/annual-reports/drafts/",), {"report_id": report, "name": DOCUMENT}, DISTRICT
        ),
    }


def small_wave(instant: datetime) -> WaveRows:
    """A survey of one person, who stayed at home."""
    day = business_day(instant)
    return WaveRows(
        code="household-survey",
        year=day.year,
        name="居民出行调查",
        kind=WaveKind.HOUSEHOLD_SURVEY,
        first_on=day,
        last_on=day,
        definition_id=DEFINITION,
        frame="测试",
        source="测试",
        confidence=Confidence.RECALLED,
        attributes=[],
        persons=[PersonRow(key="p-1", base_weight=1.0, responded=True, cluster="c-1", attributes={})],
        trips=[],
    )


def opened_round(make: Makers, maker: UUID) -> UUID:
    """A round of diaries of tomorrow, drawn from the only resident whose age is known."""
    tomorrow = business_day(make.instant) + timedelta(days=1)
    planner, opener = (
        Actor(id=each, role=Role.DISTRICT, session_id=new_id(), division=HOME[:6])
        for each in (maker, make.staff(Role.DISTRICT, division=HOME[:6]))
    )
    wanted = RoundPlan(
        code="diaries",
        name="出行日记",
        definition_id=DEFINITION,
        first_on=tomorrow,
        last_on=tomorrow,
        answer_days=1,
        closes_on=tomorrow + timedelta(days=2),
        kept_days=30,
        age_bands=[14],
        reward_points=10,
        reminder_days=[],
        sample_size=1,
    )
    planned = rounds.plan(make.session, planner, wanted, now=make.instant)
    key, jobs = make.settings.data_key, make.app.extensions["tanpuhui_jobs"]
    rounds.open_round(make.session, opener, planned.id, seed=1, data_key=key, jobs=jobs, now=make.instant)
    return planned.id


def drafted_report(make: Makers, maker: UUID) -> UUID:
    """A report on this year that says nothing, with its document."""
    day = business_day(make.instant)
    content = Content(
        district_code=HOME[:6],
        district_name="南开区",
        year=day.year,
        revision=1,
        title_zh="年度评估报告",
        title_en="Annual report",
        document="测试",
        document_number="",
        document_on=day.isoformat(),
        confidence="R",
        made_on=day.isoformat(),
        through=day.isoformat(),
        correction="",
        themes=[],
        notes_zh=[],
        notes_en=[],
    )
    report = AnnualReport(
        id=new_id(),
        year=day.year,
        revision=1,
        state=ReportState.DRAFT,
        content=msgspec.to_builtins(content),
        sha256=bytes(32),
        made_by=maker,
        made_at=make.instant,
    )
    document = AnnualReportFile(report_id=report.id, name=DOCUMENT, sha256=bytes(32), content=b"-")
    make.add(report, document)
    return report.id


# Campaigns


def campaigns(make: Makers, person: Mapping[str, UUID], ids: Mapping[str, UUID]) -> dict[str, Bundle]:
    """A draft and a running campaign of the community, of each school and of the mall.

    The owner takes part in all that run but the other school's, as captain of a team with the team-mate in it.
    """
    under = ("/api/v1/campaigns/", "/api/v1/certificates/")
    around = OFFICES | {"community"}
    made = {}
    for name, organisation, own in (
        ("the community's", None, frozenset[str]()),
        ("the school's", ids["一小"], seen("school")),
        ("the mall's", ids["商场"], seen("mall")),
        ("another school's", ids["二小"], seen("another school")),
    ):
        draft = campaign(make, person["district"], CampaignState.DRAFT, organisation)
        task = draft_task(make, draft)
        made[f"{name} draft"] = Bundle(under, {"campaign_id": draft.id, "task_id": task.id}, around | own)
        running = campaign(make, person["district"], CampaignState.RUNNING, organisation)
        captain = "team-mate" if name == "another school's" else "owner"
        groups = {
            "joined": seen(captain, "team-mate"),
            "captain": seen(captain),
            "sender and staff": around | own | {captain},
            "proposer": seen("community"),
            "settlement": around | own,
        }
        parts = running_parts(make, running, person, person[captain])
        residents = seen("owner", "team-mate", "neighbour")
        made[f"{name} campaign"] = Bundle(under, parts, around | own | residents, groups)
    return made


def campaign(make: Makers, creator: UUID, state: CampaignState, organisation: UUID | None) -> Campaign:
    """A campaign of a week, from today."""
    at = None if state is CampaignState.DRAFT else make.instant
    made = Campaign(
        id=new_id(),
        title="绿色出行周",
        division=HOME,
        organisation_id=organisation,
        team_kind=TeamKind.CLASS,
        team_size_min=1,
        team_size_max=5,
        starts_on=business_day(make.instant),
        ends_on=business_day(make.instant) + timedelta(days=7),
        state=state,
        terms_version=0 if at is None else 1,
        created_by=creator,
        created_at=make.instant,
        published_at=at,
        running_at=at,
    )
    make.add(made)
    return made


def draft_task(make: Makers, of: Campaign) -> CampaignTask:
    """A task of checking in."""
    made = a_task(of, 1, TaskKind.CHECK_IN)
    make.add(made)
    return made


def a_task(of: Campaign, position: int, kind: TaskKind, **values: Any) -> CampaignTask:
    """A task that one person completes by doing it once."""
    return CampaignTask(
        campaign_id=of.id,
        id=new_id(),
        position=position,
        kind=kind,
        subject=TaskSubject.PERSON,
        title=f"任务 {position}",
        target=1,
        reward_points=1,
        **values,
    )


def running_parts(make: Makers, of: Campaign, person: Mapping[str, UUID], captain: UUID) -> dict[str, Any]:
    """A running campaign's task, team, slot, check-in, upload, request for points, and certificate."""
    task = a_task(of, 1, TaskKind.EVIDENCE)
    team = Team(
        campaign_id=of.id,
        id=new_id(),
        name="一队",
        captain_id=captain,
        join_code_hash=hashed(make.settings.data_key, f"{teams.CODE_PURPOSE}:{of.id}", JOIN_CODE),
        members=2 if captain == person["owner"] else 1,
        size_max=5,
        created_at=make.instant,
    )
    slot = CheckInSlot(
        id=new_id(),
        campaign_id=of.id,
        kind=SlotKind.VOLUNTEER,
        site_name="社区广场",
        opens_at=make.instant - timedelta(hours=1),
        closes_at=make.instant + timedelta(hours=1),
        minutes_max=60,
        created_by=of.created_by,
        created_at=make.instant,
    )
    request = BudgetRequest(
        id=new_id(),
        campaign_id=of.id,
        points=10,
        reason="奖励",
        state=BudgetRequestState.PROPOSED,
        limit_points=0,
        proposed_by=person["community"],
        proposed_at=make.instant,
    )
    settlement = Settlement(campaign_id=of.id, state=SettlementState.QUEUED, requested_at=make.instant)
    make.add(task, team, slot, request, settlement)
    promises.write_version(make.session, of, changed_by=of.created_by, reason="发布", now=make.instant)
    joined = {captain, person["team-mate"]}
    make.add(*(participation(make, each, of.id, team.id) for each in sorted(joined)))
    stored = make.file(captain)
    upload = TaskEvidence(
        resident_id=captain,
        id=new_id(),
        campaign_id=of.id,
        task_id=task.id,
        number=1,
        file_id=stored.id,
        sha256=stored.sha256,
        sent_at=make.instant,
    )
    check_in = CheckIn(
        resident_id=captain,
        slot_id=slot.id,
        campaign_id=of.id,
        way=CheckInWay.ROTATING,
        day=business_day(make.instant),
        checked_in_at=make.instant,
        minutes=0,
    )
    code = new_id().hex[-10:].upper()  # hexadecimal digits are among those of a code
    certificate = Certificate(code=code, campaign_id=of.id, resident_id=captain, issued_at=make.instant)
    make.add(upload, check_in, certificate)
    return {
        "campaign_id": of.id,
        "task_id": task.id,
        "team_id": team.id,
        "member": uuid5(team.id, str(person["team-mate"])),  # as campaigns.drives.teams names people
        "slot_id": slot.id,
        "resident_id": captain,
        "request_id": request.id,
        "evidence_id": upload.id,
        "code": code,
    }


def participation(make: Makers, resident_id: UUID, campaign_id: UUID, team_id: UUID) -> Participation:
    return Participation(
        resident_id=resident_id, campaign_id=campaign_id, community_code=HOME, joined_at=make.instant, team_id=team_id
    )


# Creation

CREATION = ("/api/v1/creation/",)


def applications(make: Makers, person: Mapping[str, UUID], ids: Mapping[str, UUID]) -> dict[str, Bundle]:
    """Applications in different states: the community's and both schools' under review, the mall's under notice, and
    a household's that nobody else has seen yet.
    """
    folder = make.settings.district_folder
    programmes.load(make.session, read_programmes(folder), read_rubrics(folder), now=make.instant)
    community = application(make, "green-community", person["community"])
    community_parts = reviewed(make, community, person, assessor="assessor")
    school = application(make, "green-school", person["school"], organisation_id=ids["一小"])
    school_parts = reviewed(make, school, person, assessor="assessor")
    other = application(make, "green-school", person["another school"], organisation_id=ids["二小"])
    other_parts = reviewed(make, other, person, assessor="assessor of another")
    household = application(make, "green-family", person["owner"], resident_id=person["owner"])
    mall = application(make, "green-mall", person["mall"], organisation_id=ids["商场"])
    mall_evidence = evidence(make, mall, person["mall"])
    move_to(make, mall, ApplicationState.NOTICE, person["district"])
    objection = objected(make, mall, person["district"])
    mall_parts = {"application_id": mall.id, "item_code": item_of(make, mall), "evidence_id": mall_evidence}
    household_parts = {
        "application_id": household.id,
        "item_code": item_of(make, household),
        "evidence_id": evidence(make, household, person["owner"]),
    }
    return {
        "the community's application": applied(community_parts, "community", "assessor"),
        "the school's application": applied(school_parts, "school", "assessor"),
        "another school's application": applied(other_parts, "another school", "assessor of another"),
        "the mall's application": applied(mall_parts, "mall"),
        "the household's application": Bundle(CREATION, household_parts, seen("owner"), {"applicant": seen("owner")}),
        "an objection": Bundle(CREATION, {"objection_id": objection.id, "position": 1}, OFFICES),
    }


def applied(parts: Mapping[str, Any], applicant: str, *assessors: str) -> Bundle:
    """A submitted application: its applicant's people, its assessors and the offices see it."""
    groups = {
        "applicant": seen(applicant),
        "assessor": seen(*assessors),
        "visitor": DISTRICT | {*assessors},
        "reviewer": OFFICES | {*assessors},
    }
    return Bundle(CREATION, parts, OFFICES | {applicant, *assessors}, groups)


def application(make: Makers, programme: str, created_by: UUID, **subject: Any) -> Application:
    """A draft under the rubric in force."""
    rubric = make.session.scalars(
        sa.select(Rubric).where(Rubric.programme_code == programme, Rubric.state == RubricState.IN_FORCE)
    ).one()
    kinds = {"organisation_id": SubjectKind.ORGANISATION, "resident_id": SubjectKind.HOUSEHOLD}
    made = Application(
        id=new_id(),
        programme_code=programme,
        rubric_id=rubric.id,
        year=rubric.year,
        subject_kind=next((kinds[name] for name in subject), SubjectKind.COMMUNITY),
        division=HOME,
        subject_name="试验对象",
        state=ApplicationState.DRAFT,
        moves=0,
        step_since=make.instant,
        created_by=created_by,
        created_at=make.instant,
        **subject,
    )
    make.add(made)
    return made


def item_of(make: Makers, of: Application) -> str:
    """The first item of an application's rubric."""
    first = sa.select(RubricItem.code).where(RubricItem.rubric_id == of.rubric_id).order_by(RubricItem.position)
    return make.session.scalars(first.limit(1)).one()


def evidence(make: Makers, of: Application, added_by: UUID) -> UUID:
    """A file of an application that is still the applicant's."""
    made = ApplicationEvidence(
        application_id=of.id,
        id=new_id(),
        item_code=item_of(make, of),
        position=1,
        file_id=make.file(added_by).id,
        added_by=added_by,
        added_at=make.instant,
    )
    make.add(made)
    return made.id


WAY = (
    Move.BEGIN_SELF_ASSESSMENT,
    Move.SUBMIT,
    Move.TAKE_UP,
    Move.FORWARD,
    Move.PUBLISH_NOTICE,
)


def move_to(make: Makers, of: Application, state: ApplicationState, by: UUID) -> None:
    """Record the plain way to a state, without asking for what the moves want; the tables' guards stay."""
    for move in WAY:
        if of.state is state:
            return
        after = MOVES[of.state, move].after
        row = ApplicationMove(
            application_id=of.id,
            position=of.moves + 1,
            move=move,
            from_state=of.state,
            to_state=after,
            moved_by=by,
            moved_at=make.instant,
        )
        make.add(row)
        of.state, of.moves = after, of.moves + 1
        if move is Move.SUBMIT:
            of.submitted_at = make.instant
        make.session.flush()
    assert of.state is state


def reviewed(make: Makers, of: Application, person: Mapping[str, UUID], *, assessor: str) -> dict[str, Any]:
    """An application under the district's review: with evidence, an assessor, and a visit with its photograph."""
    added = evidence(make, of, of.created_by)
    move_to(make, of, ApplicationState.DISTRICT_REVIEW, person["street"])
    assigned = Assessment(
        application_id=of.id,
        staff_id=person[assessor],
        seat=1,
        assigned_by=person["district"],
        assigned_at=make.instant,
    )
    visit = SiteVisit(
        application_id=of.id,
        id=new_id(),
        visited_on=business_day(make.instant),
        people=["甲", "乙"],
        findings="属实",
        recorded_by=person[assessor],
        recorded_at=make.instant,
    )
    photo = SiteVisitPhoto(application_id=of.id, visit_id=visit.id, file_id=make.file(person[assessor]).id, position=1)
    make.add(assigned, visit, photo)
    return {
        "application_id": of.id,
        "item_code": item_of(make, of),
        "evidence_id": added,
        "staff_id": person[assessor],
        "visit_id": visit.id,
        "photo": 1,
        "candidate": person["assessor of nothing"],
    }


def objected(make: Makers, of: Application, published_by: UUID) -> Objection:
    """An objection with a file to an application under notice."""
    today = business_day(make.instant)
    notice = PublicNotice(
        application_id=of.id,
        published_on=today,
        days=7,
        last_on=today + timedelta(days=7),
        score=Decimal(80),
        maximum=100,
        published_by=published_by,
        published_at=make.instant,
    )
    made = Objection(
        id=new_id(), application_id=of.id, receipt_hash=new_id().bytes * 2, text="不实", made_at=make.instant
    )
    make.add(notice, made)
    make.add(ObjectionFile(objection_id=made.id, position=1, file_id=make.file(None).id))
    return made
