"""Settling a campaign of 100,000 participants in 2,000 teams, and writing the lists of its people.

Three tasks: walking alone, riding and walking as a team, and being there. Runs alone with `python -m bench.settlement`,
or as a late part of `make bench`, for it fills the stage's database.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psycopg
import sqlalchemy as sa

from bench.figures import Meter
from bench.running import end_tidily_when_terminated
from bench.stage import Stage, stage
from campaigns.settlement import jobs, lists
from campaigns.settlement.models import Settlement, SettlementState
from points.ledger import budgets, verification
from server.access import Actor, Role
from server.clock import business_day, now
from server.database import new_id, transaction
from server.exports import writing
from server.exports.jobs import snapshot
from server.exports.models import ExportFormat

PARTICIPANTS, TEAMS, DAYS = 100_000, 2_000, 10
SETTLEMENT_SECONDS_MAX = 60
DISTRICT, COMMUNITY = "120104", "120104001001"
BUDGET_POINTS = 100_000_000

# In this order: what names another row comes after it.
FILL = (
    """INSERT INTO staff (id, name, password_hash, role, division, created_at)
       VALUES (%(staff)s, %(name)s, 'unusable', 'district', %(district)s, now())""",
    """CREATE UNLOGGED TABLE bench_person AS
       SELECT gen_random_uuid() AS id, number FROM generate_series(1, %(participants)s) number""",
    """CREATE UNLOGGED TABLE bench_team AS
       SELECT gen_random_uuid() AS id, number FROM generate_series(0, %(teams)s - 1) number""",
    """INSERT INTO resident (resident_id, community_code, nickname, created_at)
       SELECT id, %(community)s, '居民' || number, now() FROM bench_person""",
    """INSERT INTO campaign
           (id, title, division, starts_on, ends_on, state, reward_mode, team_kind, team_size_min, team_size_max,
            terms_version, created_by, created_at, published_at, running_at, settling_at)
       VALUES (%(campaign)s, '全区低碳周', %(district)s, %(today)s - %(days)s, %(today)s, 'settling', 'at-settlement',
               'class', 2, 500, 1, %(staff)s, now(), now(), now(), now())""",
    """INSERT INTO team (campaign_id, id, name, captain_id, join_code_hash, members, size_max, created_at)
       SELECT %(campaign)s, team.id, '班' || team.number, (SELECT id FROM bench_person WHERE number = 1),
              decode(md5(team.number::text) || md5(team.number::text), 'hex'), 50, 500, now() FROM bench_team team""",
    """INSERT INTO participation (resident_id, campaign_id, community_code, joined_at, team_id)
       SELECT person.id, %(campaign)s, %(community)s, now(), team.id
       FROM bench_person person JOIN bench_team team ON team.number = person.number %% %(teams)s""",
    """INSERT INTO resident_day
       SELECT id, %(today)s - day, behaviour, %(community)s, 1, 1000 + number %% 700, 0, 100, 2
       FROM bench_person, generate_series(0, %(days)s - 1) day, unnest(ARRAY['walk', 'bus']) behaviour""",
    """INSERT INTO campaign_task (campaign_id, id, position, kind, subject, title, behaviours, measure, target,
                                  reward_points)
       VALUES (%(campaign)s, gen_random_uuid(), 1, 'behaviour', 'person', '步行', '{walk}', 'distance_m', 12000, 10),
              (%(campaign)s, gen_random_uuid(), 2, 'behaviour', 'team', '一起出行', '{walk,bus}', 'distance_m', 1000000,
               20),
              (%(campaign)s, gen_random_uuid(), 3, 'check-in', 'person', '到场', NULL, NULL, 1, 5)""",
    """INSERT INTO check_in_slot (id, campaign_id, kind, site_name, opens_at, closes_at, created_by, created_at)
       VALUES (%(slot)s, %(campaign)s, 'visit', '广场', now() - interval '1 hour', now(), %(staff)s, now())""",
    """INSERT INTO check_in (resident_id, slot_id, campaign_id, way, day, checked_in_at)
       SELECT id, %(slot)s, %(campaign)s, 'rotating', %(today)s, now() FROM bench_person WHERE number %% 10 < 8""",
    "DROP TABLE bench_person, bench_team",
)


@dataclass(slots=True)
class Result:
    """What was found, in words."""

    lines: list[str] = field(default_factory=list)

    def words(self) -> list[str]:
        """The result in words."""
        return self.lines


def measure(on: Stage, *, participants: int = PARTICIPANTS, teams: int = TEAMS) -> Result:
    """Fill, settle as a worker does, prove the ledger, and write each list once."""
    result = Result()
    campaign_id, staff_id = new_id(), new_id()
    fill(on, campaign_id, staff_id, participants, teams)
    with on.app.app_context():
        _with_budget(campaign_id)
        with timed(on) as spent:
            jobs.settle(str(campaign_id))
        with transaction() as session:
            settled = session.get_one(Settlement, campaign_id)
            wrong = [each.name for each in verification.run(session, verification.LEDGER_CHECKS) if each.first_wrong]
        if settled.state is not SettlementState.DONE or wrong:
            raise AssertionError(f"{settled.state}, {wrong}")
        result.lines += [
            f"{participants:,} 人 participants, {teams:,} 队 teams: {settled.payments:,} 笔 payments, "
            f"{settled.points:,} 分 points",
            f"  结算 settlement {spent()} (目标 target {SETTLEMENT_SECONDS_MAX} s)",
            *_write_lists(on, campaign_id, staff_id),
        ]
    return result


def fill(on: Stage, campaign_id: UUID, staff_id: UUID, participants: int, teams: int) -> None:
    """A campaign that has ended, with everybody in it and all that they did."""
    values = {
        "campaign": campaign_id,
        "staff": staff_id,
        "name": f"bench-{staff_id.hex[-12:]}",
        "slot": new_id(),
        "district": DISTRICT,
        "community": COMMUNITY,
        "today": business_day(now()),
        "days": DAYS,
        "participants": participants,
        "teams": teams,
    }
    with psycopg.connect(on.postgres.url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        for statement in FILL:
            connection.execute(statement, values)
        connection.execute("VACUUM ANALYZE")


def _with_budget(campaign_id: UUID) -> None:
    with transaction() as session:
        account_id = budgets.open_account(session, f"campaign:{campaign_id}", "全区低碳周")
        budgets.allot(session, account_id, BUDGET_POINTS, allotment_id=new_id(), now=now())
        session.execute(
            sa.text("UPDATE campaign SET account_id = :account WHERE id = :campaign"),
            {"account": account_id, "campaign": campaign_id},
        )
        session.add(
            Settlement(
                campaign_id=campaign_id,
                state=SettlementState.QUEUED,
                requested_at=now(),
                residents=0,
                payments=0,
                points=0,
            )
        )


def _write_lists(on: Stage, campaign_id: UUID, staff_id: UUID) -> Iterator[str]:
    actor = Actor(id=staff_id, role=Role.DISTRICT, session_id=new_id(), division=DISTRICT)
    arguments = {"campaign_id": str(campaign_id)}
    for producer in lists.PRODUCERS:
        for form in ExportFormat:
            with (
                tempfile.TemporaryDirectory(prefix="tanpuhui-bench-") as folder,
                timed(on) as spent,
                snapshot() as session,
            ):
                written = writing.write(
                    producer.columns(session, actor, arguments),
                    producer.rows(session, actor, arguments),
                    Path(folder) / "list",
                    format=form,
                    made_at=now(),
                )
            size_mib = written.size_bytes / 2**20
            yield f"  {producer.title_zh} {form.value}: {written.rows:,} 行 rows, {size_mib:.1f} MiB, {spent()}"


@contextmanager
def timed(on: Stage) -> Iterator[Callable[[], str]]:
    """What the inner work takes, in words: by the clock, and of processors, which other work does not lengthen."""
    meter = Meter.of(on.pids)
    began, took = time.perf_counter(), 0.0
    with meter:
        yield lambda: f"{took:.1f} s (处理器 processors {sum(meter.used_s.values()):.1f} s: {meter.shares()})"
    took = time.perf_counter() - began


def main() -> int:
    """Measure this part alone."""
    end_tidily_when_terminated()
    with stage() as on:
        for line in measure(on).words():
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
