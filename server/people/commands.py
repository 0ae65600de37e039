"""`flask staff …`: staff accounts from the machine itself, above all the first one. `flask codes …`: their limits."""

from typing import IO
from uuid import UUID

import click
import sqlalchemy as sa
from flask.cli import AppGroup

from server.access import Role
from server.clock import now
from server.database import run_transaction, transaction
from server.errors import DomainError
from server.people import code_limits
from server.people.models import Staff
from server.people.staff import PASSWORD_LENGTH_MAX, create, hash_password
from server.settings import settings

staff = AppGroup("staff", help="Staff accounts.")
codes = AppGroup("codes", help="Residents' codes, cards and households.")

ROLES = [role.value for role in Role if role is not Role.RESIDENT]


@staff.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option("--division", help="Code of the district, street or community that they answer for.")
@click.option("--organisation", "organisation_id", type=click.UUID, help="For school staff, in place of a division.")
@click.option("--password-file", type=click.File("r"), help="A file whose first line is the password; - reads stdin.")
def create_staff(
    name: str, role: str, division: str | None, organisation_id: UUID | None, password_file: IO[str] | None
) -> None:
    """Create an account; one that is there already with this role and scope stays as it is.

    The password is asked for, or read from a file, and never an argument: every user of a machine sees arguments.
    """
    wanted = (Role(role), division, organisation_id)
    with transaction() as session:
        found = session.execute(
            sa.select(Staff.role, Staff.division, Staff.organisation_id).where(Staff.name == name)
        ).first()
    if found is not None:
        if tuple(found) != wanted:
            raise click.ClickException(f"{name} exists with another role or scope; nothing was changed")
        click.echo(f"staff: {name} exists already", err=True)
        return
    try:
        password_hash = hash_password(_password(password_file))
        with transaction() as session:
            create(
                session,
                None,
                name=name,
                password_hash=password_hash,
                role=wanted[0],
                division=division,
                organisation_id=organisation_id,
                now=now(),
            )
    except DomainError as error:
        raise click.ClickException(f"{error.code}: {error}") from error
    click.echo(f"staff: {name} created as {role}", err=True)


@codes.command("load")
def load_code_limits() -> None:
    """Load the limits of codes, cards and households of the district's folder; a second time changes nothing."""
    folder = settings().district_folder
    try:
        entries = code_limits.read_limits(folder)
        added = run_transaction(lambda session: code_limits.load(session, entries))
    except code_limits.CodeDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"codes: {len(entries)} sets of limits in the data folder, {added} added", err=True)


def _password(file: IO[str] | None) -> str:
    if file is not None:
        return file.readline(PASSWORD_LENGTH_MAX + 2).rstrip("\r\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
