"""`flask sample …`: a development service with something in it, and a list of what to try."""

import contextlib
import shlex
from datetime import datetime, timedelta
from pathlib import Path
from string import Template

import click
from flask.cli import AppGroup
from sqlalchemy.orm import Session

from campaigns.sample import sample as rules
from campaigns.sample.sample import Credentials, SampleError
from campaigns.statistics.counting import CountIsRunning
from campaigns.statistics.jobs import count_everything_due
from campaigns.statistics.report import district_figures
from points.statistics.marks import FIRST_DAY
from points.waste.orders import timetable
from points.waste.sites import importing
from server.access import Role
from server.clock import SHANGHAI, now
from server.database import run_transaction, transaction
from server.people.staff import hash_password
from server.settings import Settings, settings

sample = AppGroup("sample", help="Sample people, partners and a campaign; never in production.")

CREDENTIALS_FILE = "sample.json"
TRY_THIS_FILE = "try-this.txt"
SHELL_FILE = "sample.env"
# In the district's data folder, if it has any: invented sites and hours, which a real district never loads.
DEMONSTRATION_SITES = "sites-demonstration.toml"
DEMONSTRATION_TIMETABLE = "collection-demonstration.toml"


@sample.command("load")
def load() -> None:
    """Load the sample; write sample.json, sample.env and try-this.txt. A second time changes nothing."""
    configured = settings()
    if configured.is_production:
        raise click.ClickException("sample people and partners are for development: TANPUHUI_ENV is production")
    path = configured.data_folder / CREDENTIALS_FILE
    try:
        credentials = _load(configured, path, at=now())
    except SampleError as error:
        raise click.ClickException(str(error)) from error
    rules.write_credentials(path, credentials)
    rules.write_private(configured.data_folder / SHELL_FILE, shell_variables(configured, credentials).encode())
    text = try_this(configured, credentials, at=now())
    rules.write_private(configured.data_folder / TRY_THIS_FILE, text.encode())
    # So that the first look at the statistics shows the sample and not an empty page; a worker that counts is as good.
    with contextlib.suppress(CountIsRunning):
        count_everything_due(FIRST_DAY)
    click.echo(
        f"sample: {len(credentials.staff)} staff, {len(credentials.residents)} residents, "
        f"{len(credentials.partners)} partners; credentials in {path}",
        err=True,
    )


def _load(settings: Settings, path: Path, *, at: datetime) -> Credentials:
    credentials = rules.read_credentials(path)
    renewed = rules.complete(credentials, settings.district_folder.name)
    # Before the database: an account whose password is nowhere would be lost, a password without an account is not.
    rules.write_credentials(path, credentials)
    with transaction() as session:
        absent = rules.absent_staff(session, credentials)
    wanted = absent | (renewed & credentials.staff.keys())
    hashes = {name: hash_password(credentials.staff[name].password) for name in sorted(wanted)}

    def work(session: Session) -> Credentials:
        loaded = rules.load(
            session,
            credentials,
            district=district_figures(settings.district_folder).code,
            renewed=renewed,
            password_hashes=hashes,
            wechat_app=(settings.wechat_appid, settings.wechat_secret),
            data_key=settings.data_key,
            now=at,
        )
        sites, stops = (settings.district_folder / name for name in (DEMONSTRATION_SITES, DEMONSTRATION_TIMETABLE))
        if sites.exists():
            importing.load(session, importing.read_file(sites), now=at)
        if stops.exists():
            timetable.load_timetable(session, timetable.read_timetable(stops), now=at)
        return loaded

    return run_transaction(work)


def shell_variables(settings: Settings, credentials: Credentials) -> str:
    """The sample's addresses, accounts and keys as shell variables, for the walk in README.md."""
    by_role = {kept.role: (name, kept) for name, kept in credentials.staff.items()}
    values = {
        "BASE": _address(settings),
        "WECHAT": settings.wechat_base_url.rstrip("/"),
        "COMMUNITY": by_role[Role.COMMUNITY_STAFF.value][1].division,
        "SAMPLE_CAMPAIGN": credentials.campaign_id,
    }
    for role_name, (name, kept) in by_role.items():
        word = role_name.removesuffix("-staff").upper()
        values |= {f"{word}_STAFF": name, f"{word}_PASSWORD": kept.password}
    for code, partner in credentials.partners.items():
        values[f"{code.removesuffix('-sample').upper()}_KEY"] = partner.key
    return "".join(f"{name}={shlex.quote(value or '')}\n" for name, value in values.items())


def _address(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 -- compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def try_this(settings: Settings, credentials: Credentials, *, at: datetime) -> str:
    """Commands to paste, in Chinese and English, with real values. They need a shell, curl, sed and openssl."""
    by_role = {kept.role: (name, kept) for name, kept in credentials.staff.items()}
    district_name, district = by_role[Role.DISTRICT.value]
    community_name, community = by_role[Role.COMMUNITY_STAFF.value]
    # In the past, so that nothing lies in the future when it is pasted; fixed, so that pasting twice is paid once.
    walked, rode = at - timedelta(minutes=40), at - timedelta(minutes=90)
    local = at.astimezone(SHANGHAI)
    return Template(_TRY_THIS).substitute(
        base=_address(settings),
        wechat=settings.wechat_base_url.rstrip("/"),
        walk_from=_instant(walked),
        walk_to=_instant(walked + timedelta(minutes=20)),
        ride_id=f"try-{int(at.timestamp())}",
        ride_from=_instant(rode),
        ride_to=_instant(rode + timedelta(minutes=25)),
        community_staff=community_name,
        community_password=community.password,
        community_code=community.division,
        district_staff=district_name,
        district_password=district.password,
        campaign_id=credentials.campaign_id,
        starts_on=local.date().isoformat(),
        ends_on=(local.date() + timedelta(days=30)).isoformat(),
        partner="metro-sample",
        partner_key=credentials.partners["metro-sample"].key,
        member=credentials.residents["alice"].member_id,
        credentials_file=settings.data_folder / CREDENTIALS_FILE,
    )


def _instant(instant: datetime) -> str:
    return instant.astimezone(SHANGHAI).isoformat(timespec="seconds")


_TRY_THIS = """\
# 试一试 · Things to try; paste it line by line, or run the file itself
# 样例账号与密钥 sample accounts and keys: $credentials_file
# 网页 pages: $base/  接口文档 API documentation: $base/docs  报告 report: $base/report

BASE=$base
WECHAT=$wechat

# 1. 居民登录 (微信替身) · sign in as a resident, through the WeChat stand-in
CODE=$$(curl -s -X POST $$WECHAT/phone/login -H 'Content-Type: application/json' -d '{"user":"alice"}' | sed 's/.*"code": *"\\([^"]*\\)".*/\\1/')
ALICE=$$(curl -s -X POST $$BASE/api/v1/sign-in/wechat -H 'Content-Type: application/json' \\
  -d "{\\"code\\":\\"$$CODE\\",\\"accept_terms\\":true}" | sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/')

# 2. 记录一次步行 · record a walk
curl -s -X POST $$BASE/api/v1/me/activities/trips -H "Authorization: Bearer $$ALICE" -H 'Content-Type: application/json' \\
  -d '{"mode":"walk","started_at":"$walk_from","ended_at":"$walk_to","distance_m":1500}'

# 3. 合作方推送签名批次 · push a signed batch as a partner
BATCH=$$(mktemp)
printf '%s\\n' '{"kind":"ride","id":"$ride_id","member":"$member","mode":"metro","started_at":"$ride_from","ended_at":"$ride_to","distance_m":8000}' > "$$BATCH"
TIME=$$(date +%s)
SIGNATURE=$$({ printf '%s.' "$$TIME"; cat "$$BATCH"; } | openssl dgst -sha256 -hmac '$partner_key' -r | cut -d' ' -f1)
curl -s -X POST $$BASE/api/v1/partners/$partner/events -H 'Content-Type: application/x-ndjson' -H "X-Tanpuhui-Timestamp: $$TIME" \\
  -H 'X-Tanpuhui-Batch: $ride_id' -H "X-Tanpuhui-Signature: $$SIGNATURE" --data-binary "@$$BATCH"

# 4. 积分与减碳 · points and grams saved
curl -s $$BASE/api/v1/me/wallet -H "Authorization: Bearer $$ALICE"
curl -s $$BASE/api/v1/me/activities -H "Authorization: Bearer $$ALICE"

# 5. 参加示例活动并看进度 · join the sample campaign and see the progress
curl -s -X POST $$BASE/api/v1/campaigns/$campaign_id/participations -H "Authorization: Bearer $$ALICE"
curl -s $$BASE/api/v1/campaigns/$campaign_id/progress -H "Authorization: Bearer $$ALICE"

# 6. 社区工作人员登录, 新建并发布活动 · as community staff, create and publish a campaign
STAFF=$$(curl -s -X POST $$BASE/api/v1/sign-in/staff -H 'Content-Type: application/json' \\
  -d '{"name":"$community_staff","password":"$community_password"}' | sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/')
CAMPAIGN=$$(curl -s -X POST $$BASE/api/v1/campaigns -H "Authorization: Bearer $$STAFF" -H 'Content-Type: application/json' \\
  -d '{"title":"社区步行周","division":"$community_code","starts_on":"$starts_on","ends_on":"$ends_on","tasks":[{"kind":"behaviour","title":"步行5次","behaviours":["walk"],"measure":"activities","target":5}]}' \\
  | sed 's/.*"id": *"\\([^"]*\\)".*/\\1/')
curl -s -X POST $$BASE/api/v1/campaigns/$$CAMPAIGN/publish -H "Authorization: Bearer $$STAFF"
curl -s $$BASE/api/v1/campaigns/$campaign_id/participation -H "Authorization: Bearer $$STAFF"

# 7. 区级查看参与情况 (确切数字) · as the district office, exact participation
DISTRICT=$$(curl -s -X POST $$BASE/api/v1/sign-in/staff -H 'Content-Type: application/json' \\
  -d '{"name":"$district_staff","password":"$district_password"}' | sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/')
curl -s $$BASE/api/v1/report/participation -H "Authorization: Bearer $$DISTRICT"

# 8. 公开报告 (不足10人的数字不公布) · the public report; counts below ten are hidden
curl -s $$BASE/api/v1/report/summary
"""  # noqa: E501 -- a command to paste stays on one line
