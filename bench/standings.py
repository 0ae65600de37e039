"""Standings of a campaign of 100,000 participants in 2,000 teams: reading a page, and computing the tables anew.

Warm: the same page again and again. Cold: the first page after the tables were computed anew, every time, so that
nothing of what it reads has been read before. Runs alone with `python -m bench.standings`, or within `make bench`.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from bench import settlement
from bench.figures import latency_words, spread
from bench.load import Run, drive, request
from bench.participation import readers
from bench.running import end_tidily_when_terminated
from bench.stage import Stage, stage
from campaigns.drives.models import CampaignTask
from campaigns.tasks import standings
from server.clock import now
from server.database import new_id, transaction

WARM_MS_MAX, COLD_MS_MAX = 20, 200
REFRESHES = 12
PAGE_ROWS = 50


@dataclass(slots=True)
class Result:
    """What was found, in words."""

    lines: list[str] = field(default_factory=list)

    def words(self) -> list[str]:
        """The result in words."""
        return self.lines


def measure(
    on: Stage,
    seconds: float,
    *,
    participants: int = settlement.PARTICIPANTS,
    teams: int = settlement.TEAMS,
    refreshes: int = REFRESHES,
) -> Result:
    """Fill, compute the tables some times, and read a page of teams after each and then many times over."""
    campaign_id = new_id()
    settlement.fill(on, campaign_id, new_id(), participants, teams)
    task_id = _team_task(on, campaign_id)
    tokens = readers(on)
    page = f"/api/v1/campaigns/{campaign_id}/tasks/{task_id}/standings?of=team&by=per-head&limit={PAGE_ROWS}"
    requests = [request("GET", page, {"Authorization": f"Bearer {token}"}) for token in tokens]
    computed_s, cold_s = [], []
    for number in range(refreshes):
        computed_s.append(_refresh(on, task_id))
        cold_s += drive(on.server, [requests[number : number + 1]]).latencies_s
    warm = drive(on.server, [requests * 14], seconds=seconds)
    _check(warm, min(teams, PAGE_ROWS))
    return Result(
        [
            f"{participants:,} 人 participants, {teams:,} 队 teams",
            f"  热读 warm page: {latency_words(warm.latencies_s)} (目标 target p99 ≤ {WARM_MS_MAX} ms)",
            f"  冷读 cold page: {latency_words(cold_s)} (目标 target ≤ {COLD_MS_MAX} ms)",
            f"  重算 computing the tables: {spread(computed_s, 2)} s",
        ]
    )


def _team_task(on: Stage, campaign_id: UUID) -> UUID:
    with psycopg.connect(on.postgres.url) as connection:
        [(found,)] = connection.execute(
            "SELECT id FROM campaign_task WHERE campaign_id = %s AND subject = 'team'", (campaign_id,)
        ).fetchall()
    return UUID(str(found))


def _refresh(on: Stage, task_id: UUID) -> float:
    """Compute the tables as the job does; its seconds."""
    began = time.perf_counter()
    with on.app.app_context(), transaction() as session:
        task = session.query(CampaignTask).filter_by(id=task_id).one()
        standings.refresh(session, task, now=now())
    return time.perf_counter() - began


def _check(run: Run, rows: int) -> None:
    answer = json.loads(run.answers[0][1])
    if len(answer["items"]) != rows or answer["computed_at"] is None:
        raise AssertionError(f"the page holds {len(answer['items'])} rows, computed {answer['computed_at']}")


def main() -> int:
    """Measure this part alone."""
    end_tidily_when_terminated()
    with stage() as on:
        for line in measure(on, 5.0).words():
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
