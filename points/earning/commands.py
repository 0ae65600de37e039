"""`flask rules …` and `flask counts …`."""

import click
from flask.cli import AppGroup

from points.earning import counts as kept
from points.earning import rules as rule_files
from points.earning.rules import RuleDataError
from points.ledger import verification
from points.ledger.commands import ledger, prove
from server.database import run_transaction
from server.settings import settings

rules = AppGroup("rules", help="The district's earning rules.")
counts = AppGroup("counts", help="The counts kept by resident and community.")


@rules.command("load")
def load_rules() -> None:
    """Load the rules of the district's data folder; a second time changes nothing."""
    folder = settings().district_folder
    try:
        files = rule_files.read_folder(folder)
        added = run_transaction(lambda session: rule_files.load(session, files))
    except RuleDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"rules: {len(files)} versions in the data folder, added {', '.join(added) or 'nothing new'}", err=True)


@counts.command("rebuild")
def rebuild_counts() -> None:
    """Write both counts anew from the activities."""
    click.echo("counts: rebuilding; awards wait meanwhile", err=True)
    residents, communities = run_transaction(kept.rebuild)
    click.echo(f"counts: {residents} resident days, {communities} community days", err=True)


@ledger.command("verify")
def verify_ledger() -> None:
    """Prove lots = transfers, sum = 0, counts = activities; name the first row that is wrong, exit status 1.

    Stands here because the counts are this sub-room's, and the ledger below knows nothing of activities.
    """
    prove(lambda session: verification.run(session, verification.LEDGER_CHECKS + kept.COUNT_CHECKS))
