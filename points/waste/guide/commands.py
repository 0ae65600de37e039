"""`flask guide …`: what the public page of sites tells."""

import click
from flask.cli import AppGroup

from points.waste.catalogue import items
from server.settings import settings

guide = AppGroup("guide", help="What waste goes where.")


@guide.command("load")
def load() -> None:
    """Read and check the district's lists of everyday things, `waste-items-*.toml`; they are served from the files."""
    items.read_folder.cache_clear()
    try:
        editions = items.read_folder(settings().district_folder)
    except items.GuideDataError as error:
        raise click.ClickException(str(error)) from error
    for edition in editions:
        click.echo(f"guide: {edition.id}, from {edition.edition_on}: {len(edition.items)} things", err=True)
    if not editions:
        click.echo("guide: no waste-items-*.toml, so the page tells nothing of what goes where", err=True)
