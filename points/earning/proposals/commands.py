"""`flask rules …`: proposals on the machine itself. Deciding takes two signed-in people and has no command."""

from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from points.earning.commands import rules
from points.earning.proposals import jobs, proposals, published
from points.earning.proposals.models import CONTENT_BYTES_MAX, ProposalKind
from server.clock import now
from server.database import transaction
from server.errors import DomainError

LISTED_MAX = 100


@rules.command("try")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--method", "kind", flag_value=ProposalKind.METHOD.value, help="FILE is a carbon method.")
@click.option("--fen-per-100-points", type=click.IntRange(0), help="What 100 points are assumed to cost, in fen.")
def try_rules(file: Path, kind: str | None, fen_per_100_points: int | None) -> None:
    """Check FILE and print what the last 30 days would have paid under it. Changes nothing."""
    if file.stat().st_size > CONTENT_BYTES_MAX:
        raise click.ClickException(f"{file.name}: larger than {CONTENT_BYTES_MAX} bytes")
    try:
        content = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file.name}: {error}") from error
    try:
        with transaction() as session:
            latest = proposals.latest_version(session)
            base_id = None if latest is None else latest.id
            wanted = ProposalKind(kind or ProposalKind.RULES.value)
            proposed = proposals.read(session, wanted, content, base_id=base_id)
            tariff = proposals.tariff_of(session, proposed)
    except DomainError as error:
        raise click.ClickException(f"{file.name}: {error.detail or error.title_en}") from error
    first_on, last_on = proposals.replay_period(now())
    report = jobs.replay_tariff(tariff, first_on, last_on, fen_per_100_points=fen_per_100_points, progress_of=None)
    _print(report)


@rules.command("replay")
@click.argument("proposal_id", type=click.UUID)
def replay(proposal_id: UUID) -> None:
    """Replay the last 30 days under a proposal here and now, instead of waiting for the worker."""
    try:
        if not jobs.replay_proposal(proposal_id):
            raise click.ClickException("There is nothing to replay: it is replayed, decided, or was tried too often")
        with transaction() as session:
            report = proposals.proposal_for(session, proposal_id).replay.report
    except DomainError as error:
        raise click.ClickException(f"{error.title_en}: {error.detail or error.code}") from error
    if report is not None:
        _print(report)


@rules.command("proposals")
def list_proposals() -> None:
    """List the proposals, the newest first."""
    with transaction() as session:
        for each in proposals.list_proposals(session, state=None, limit=LISTED_MAX, cursor=None).items:
            kept = each.replay
            done = "replayed" if kept.finished_at else kept.problem or f"day {kept.days_done}"
            click.echo(
                f"{each.proposal.id}  {each.proposal.state.value:<10}{each.proposal.version_id:<28}"
                f"from {each.proposal.valid_from}  {done:<12}{each.proposal.reason}"
            )


@rules.command("enact")
def enact() -> None:
    """Write the approved versions whose day is near, as the job does every ten minutes."""
    done = jobs.enact_due()
    for proposal_id, state in done:
        click.echo(f"{proposal_id}  {state.value}")
    words = ", ".join(f"{number} {state}" for state, number in Counter(state.value for _, state in done).items())
    click.echo(f"rules: {words or 'nothing is due'}", err=True)


@rules.command("history")
def history() -> None:
    """List every version: who proposed and approved it, when and why."""
    with transaction() as session:
        for each in published.history(session, limit=LISTED_MAX, cursor=None).items:
            until = f" to {each.version.valid_to}" if each.version.valid_to else ""
            click.echo(f"{each.version.id}  from {each.version.valid_from}{until}  {each.version.content_sha256.hex()}")
            if each.proposal is None:
                click.echo(f"  data file: {each.version.source}")
            else:
                click.echo(
                    f"  proposed by {each.proposed_by_name} at {each.proposal.proposed_at}: {each.proposal.reason}"
                )
                click.echo(
                    f"  approved by {each.decided_by_name} at {each.proposal.decided_at}: "
                    f"{each.proposal.decision_reason}"
                )


def _print(report: dict[str, Any]) -> None:
    if report["one_in"] > 1:
        click.echo(f"of a sample: one resident in {report['one_in']}", err=True)
    heads = f"{'paid':>12}{'would be':>12}{'difference':>12}{'gain':>9}{'lose':>9}{'same':>9}"
    click.echo(f"{report['version_id']}, {report['first_on']} to {report['last_on']}, {report['activities']} records")
    click.echo(f"{'':<44}{heads}")
    for mode in report["modes"]:
        _line(f"{mode['behaviour']} / {mode['mode']} / {mode['grade']}", mode)
    for street in report["streets"]:
        _line(f"{street['code']} {street['name']}", street)
    _line("in all", report)
    for percent in report["residents"]["quantiles"]:
        click.echo(f"  {percent['percent']:>3} % of the residents: {percent['points']:+} points or less")
    if report["paid_cost_fen"] is not None:
        paid, replayed = report["paid_cost_fen"] / 100, report["replayed_cost_fen"] / 100
        click.echo(f"  cost as assumed: {paid:,.2f} yuan, would be {replayed:,.2f} yuan")


def _line(name: str, figures: dict[str, Any]) -> None:
    paid, replayed, residents = figures["paid_points"], figures["replayed_points"], figures["residents"]
    click.echo(
        f"{name:<44}{paid:>12}{replayed:>12}{replayed - paid:>+12}"
        f"{residents['gain']:>9}{residents['lose']:>9}{residents['same']:>9}"
    )
