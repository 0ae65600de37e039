"""`flask share compute|review|publish|discard|goal|releases|reproduce`: releases from the machine itself.

Every act names the member of staff that it is done for: what needs two people needs two names here too.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import click
from sqlalchemy.orm import Session

from points.share.estimate import process
from points.share.estimate.exchange import Options
from points.share.releases import jobs, publication, releases, reproduction
from points.share.releases.goal import GoalAnswer, GoalDataError, GoalLine, read_goal
from points.share.releases.models import REMARK_LENGTH_MAX, ShareRelease
from points.share.releases.publication import Headline, ReadingTrend, ReleaseSeen
from points.share.releases.releases import Wanted
from points.share.survey.commands import share
from server.access import Actor, Permission
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.errors import DomainError
from server.people.acting import actor_named
from server.settings import settings

REVISIONS_SHOWN_MAX = 200

_AS = click.option("--as", "staff_name", required=True, help="The member of staff who does this.")


@share.command("compute")
@click.option("--year", type=click.IntRange(2000, 2100), required=True)
@click.option("--waves", "wave_codes", required=True, help="Codes of survey waves of the year, with commas.")
@click.option("--margins", "margin_set_code", help="The margins to weight to; without them it is unweighted.")
@click.option("--definition", "definition_id", help="By default the one that holds today.")
@click.option("--adjust-by", default="", help="Attributes that make the cells of the non-response adjustment.")
@click.option("--replicates", type=click.IntRange(50, 1000), default=None)
@click.option("--reference-green", type=click.FloatRange(0, 1), default=None, help="An unselected reference's share.")
@click.option("--corrects", help="The published release of the year that this one corrects.")
@click.option("--reason", default="", help="Why it is corrected.")
@_AS
def compute(year: int, wave_codes: str, staff_name: str, corrects: str | None, reason: str, **asked_for: Any) -> None:
    """Compute an estimate as a draft, now and in this process."""
    line = _line()
    options = {"seed": year, "reference_green": asked_for["reference_green"]}
    if asked_for["replicates"] is not None:
        options["replicates"] = asked_for["replicates"]

    def ask(session: Session, actor: Actor) -> ShareRelease:
        wanted = Wanted(
            year=year,
            waves=_listed(wave_codes),
            margin_set_code=asked_for["margin_set_code"],
            definition_id=asked_for["definition_id"],
            options=Options(margins=[], adjustment_cells=_listed(asked_for["adjust_by"]), **options),
            corrects=None if corrects is None else releases.release_named(session, corrects).id,
            reason=reason,
        )
        return releases.request(session, actor, wanted, district_code=line.district_code, jobs=None, now=now())

    asked = _acting(staff_name, ask)
    click.echo(f"share: computing {asked.name} …", err=True)
    jobs.compute(asked.id)
    with transaction() as session:
        found, seen = publication.release_called(session, asked.name, line)
    if seen is None:
        _refuse(f"{found.name} {found.state.value}: {found.problem} {found.problem_detail or ''}")
    _print_release(found, seen)


@share.command("review")
@click.argument("release")
@click.option("--remark", required=True, help="What was checked, and how.")
@_AS
def review(release: str, remark: str, staff_name: str) -> None:
    """Say that a draft was checked; by another person than the one who had it computed."""
    _decide(release, staff_name, releases.review, remark=remark[:REMARK_LENGTH_MAX])


@share.command("publish")
@click.argument("release")
@_AS
def publish(release: str, staff_name: str) -> None:
    """Publish a reviewed release. It never changes afterwards."""
    _decide(release, staff_name, releases.publish)


@share.command("discard")
@click.argument("release")
@click.option("--reason", required=True)
@_AS
def discard(release: str, reason: str, staff_name: str) -> None:
    """Give up a release that is not published."""
    _decide(release, staff_name, releases.discard, reason=reason[:REMARK_LENGTH_MAX])


@share.command("releases")
def list_releases() -> None:
    """Print the published releases, newest first."""
    with transaction() as session:
        page = publication.list_published(session, limit=REVISIONS_SHOWN_MAX, cursor=None)
    for each in page.items:
        corrected = "  corrected" if each.corrected_by is not None else ""
        click.echo(f"{each.name}  {each.definition_id}  {_shares(each)}{corrected}")


@share.command("show")
@click.argument("release")
def show(release: str) -> None:
    """Print a release in any state, its cautions included."""
    with transaction() as session:
        try:
            found, seen = publication.release_called(session, release, _line())
        except DomainError as error:
            _refuse(f"{error.code}: {error}")
    if seen is None:
        click.echo(f"{found.name}  {found.state.value}  {found.problem or ''} {found.problem_detail or ''}")
    else:
        _print_release(found, seen)


@share.command("goal")
def print_goal() -> None:
    """Print whether the goal is met, by the newest published release, and the trend."""
    line = _line()
    with transaction() as session:
        standing = publication.standing(session, line, today=business_day(now()))
        until = max((point.year for point in line.points), default=business_day(now()).year)
        trends = publication.trends(session, until=until)
    if standing.release is None:
        click.echo("no release is published")
    else:
        click.echo(f"{standing.release.name}  {standing.release.definition_id}  {_shares(standing.release)}")
    _print_answer(standing.answer)
    for each in trends:
        _print_trend(each)


@share.command("reproduce")
@click.argument("release")
def reproduce(release: str) -> None:
    """Compute a release again from its kept input and compare; exit status 1 if any figure differs."""
    try:
        with transaction() as session:
            found = releases.release_named(session, release)
            content, then = releases.input_of(session, found), releases.result_of(found)
        click.echo(f"share: computing {found.name} again from {len(content)} bytes …", err=True)
        again = process.run(content)
    except DomainError as error:
        _refuse(f"{error.code}: {error}")
    done = reproduction.compare(
        then,
        again,
        kept_code_version=found.code_version or "",
        kept_input_sha256=found.input_sha256 or b"",
        content=content,
    )
    click.echo(f"input   sha256 {(found.input_sha256 or b'').hex()}  {'intact' if done.input_is_intact else 'CHANGED'}")
    click.echo(f"kept    sha256 {(found.result_sha256 or b'').hex()}")
    click.echo(f"again   sha256 {done.result_sha256}  {'the same' if done.same_bytes else 'differs'}")
    if done.code_versions[0] != done.code_versions[1]:
        click.echo(f"code    then {done.code_versions[0]}\n        now  {done.code_versions[1]}")
    for name, before, after in done.libraries:
        click.echo(f"library {name}: then {before}, now {after}")
    if done.same_figures and done.input_is_intact:
        click.echo("every figure is the same, to the last digit")
        return
    difference = "not the same members" if done.difference_max is None else f"at most {done.difference_max:.3g}"
    _refuse(f"the figures differ: {difference}")


def _decide(release: str, staff_name: str, act: Callable[..., ShareRelease], **words: str) -> None:
    """One act on a release as it stands now."""
    line = _line()

    def work(session: Session, actor: Actor) -> ShareRelease:
        found = releases.release_named(session, release)
        return act(
            session,
            actor,
            found.id,
            **words,
            district_code=line.district_code,
            version=found.version,
            now=now(),
        )

    done = _acting(staff_name, work)
    click.echo(f"share: {done.name} is {done.state.value}", err=True)


def _acting(staff_name: str, work: Callable[[Session, Actor], ShareRelease]) -> ShareRelease:
    try:
        return run_transaction(
            lambda session: work(session, actor_named(session, staff_name, Permission.SHARE_RELEASE))
        )
    except DomainError as error:
        _refuse(f"{error.code}: {error}")


def _refuse(message: str) -> NoReturn:
    raise click.ClickException(message)


def _line() -> GoalLine:
    try:
        return read_goal(settings().district_folder)
    except GoalDataError as error:
        raise click.ClickException(str(error)) from error


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _shares(release: Headline) -> str:
    marks = "" if release.weighted else "  unweighted"
    return (
        "; ".join(
            f"{each.reading} {each.estimate.share:.1%} ({each.estimate.low:.1%} to {each.estimate.high:.1%})"
            for each in release.readings
        )
        + marks
    )


def _print_release(release: ShareRelease, seen: ReleaseSeen) -> None:
    click.echo(f"{release.name}  {release.state.value}  {seen.headline.definition_id}")
    click.echo(f"  population: {seen.margins.population if seen.margins else 'none, unweighted'}")
    for each in seen.headline.readings:
        estimate = each.estimate
        click.echo(
            f"  {each.reading:<12} {estimate.share:.1%}  95% {estimate.low:.1%} to {estimate.high:.1%}"
            f"  n {estimate.n}  effective {estimate.n_effective:.0f}  unweighted {each.naive:.1%}"
        )
    for wave in seen.waves:
        weights = ", ".join(f"{each.reading} {each.combining_weight or 0:.2f}" for each in wave.readings)
        click.echo(f"  wave {wave.code}: {wave.responded} of {wave.drawn} answered; weight {weights}")
    for caution in seen.cautions:
        click.echo(f"  ! {caution.code}: {caution.text_zh} {caution.text_en}")
    _print_answer(seen.goal)


def _print_answer(answer: GoalAnswer) -> None:
    target = answer.target
    line = "no line" if target is None else f"line {'about ' if target.about else ''}{target.share:.1%}"
    click.echo(f"goal {answer.year}: {answer.answer.value}  ({line}; {answer.reason.value})")
    for each in answer.readings:
        needed = "" if each.persons_to_tell is None else f"; {each.persons_to_tell} respondents would tell"
        click.echo(f"  {each.reading:<12} {each.answer.value}  ({each.reason.value}{needed})")


def _print_trend(reading: ReadingTrend) -> None:
    if reading.trend is None:
        click.echo(f"trend {reading.reading}  {reading.definition_id}: not from fewer than three comparable years")
        return
    found, last = reading.trend, reading.trend.projected[-1]
    click.echo(
        f"trend {reading.reading}  {reading.definition_id}: {found.slope_points_per_year:+.2f} points a year; "
        f"if it went on so, {last.year}: {last.share:.1%} (95% {last.low:.1%} to {last.high:.1%})"
    )
