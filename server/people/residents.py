"""Residents: signing in with WeChat, the profile, the phone number, and consents."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import audit
from server.access import Actor
from server.clock import business_day
from server.crypto import BadSeal, keyed_hash, seal, unseal
from server.database import new_id
from server.errors import Conflict, Forbidden, InvalidRequest, NotFound
from server.people import sessions
from server.people.models import Consent, ConsentPurpose, Resident, WechatIdentity
from server.people.wechat import WeChatDataUnreadable, WeChatSession
from server.places.divisions import community_for

# The texts that people agree to, by the day from which each wording holds. A new wording is a new consent (PIPL 14):
# nothing rests on the old one any more, and a resident who signs in is asked for the terms again.
TERMS_TEXT_VERSION = "2026-11-01"
TEXT_VERSIONS: dict[ConsentPurpose, str] = {
    ConsentPurpose.TERMS: TERMS_TEXT_VERSION,
    ConsentPurpose.WERUN_STEPS: "2026-11-01",
    ConsentPurpose.PARTNER: "2026-11-01",
    ConsentPurpose.RANKING: "2026-11-01",
    ConsentPurpose.TRACKS: "2026-11-22",
}

# Terms end with the account and a partner's consent with its binding; these stand alone.
OPTIONAL_PURPOSES = (ConsentPurpose.WERUN_STEPS, ConsentPurpose.RANKING, ConsentPurpose.TRACKS)

DISTRICT_CODE_LENGTH = 6

_SESSION_KEY = "wechat-session-key"
_PHONE = "phone"


class TermsRequired(Forbidden):
    """A first sign-in, or the first one after the terms changed, must carry `accept_terms: true`.

    The one-use WeChat code is spent by then; ask wx.login for another.
    """

    code, title_zh, title_en = "terms-required", "请先同意用户协议", "Accept the terms first"


class AccountDisabled(Forbidden):
    """The district office has disabled this account; it names a person to turn to (PIPL 24)."""

    code, title_zh, title_en = (
        "account-disabled",
        "账号已停用, 请联系区级管理部门",
        "This account is disabled; contact the district office",
    )


class HomeCommunityMissing(Conflict):
    """Points are counted for a community, so there must be one first."""

    code, title_zh, title_en = (
        "home-community-missing",
        "请先选择所在社区",
        "Choose your home community first (PATCH /me)",
    )


class ConsentMissing(Conflict):
    """This needs a consent that was not given, or was withdrawn."""

    code, title_zh, title_en = "consent-missing", "需要先同意授权", "Give the consent for this first"


class PhoneTaken(Conflict):
    """Another resident has this phone number."""

    code, title_zh, title_en = "phone-taken", "该手机号已被其他账号使用", "Another account has this phone number"
    constraints = ("resident_phone_hash_key",)


class ConsentTextOutdated(Conflict):
    """The person was shown another wording than the one that holds now; show the current one and ask again."""

    code, title_zh, title_en = (
        "consent-text-outdated",
        "授权文本已更新, 请重新阅读",
        "The text of this consent has changed; show it again",
    )


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who signed in, and whether this made the account."""

    resident_id: UUID
    is_new: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """What a resident sees of themself. The phone number shows its country and last four digits only."""

    id: UUID
    community_code: str | None
    nickname: str | None
    born_in: int | None
    phone: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ConsentState:
    """One consent as it stands: `given_at` is None when it is not given. `subject` is a partner's code, or empty."""

    purpose: ConsentPurpose
    subject: str
    current_text_version: str
    text_version: str | None
    given_at: datetime | None


def sign_in_wechat(
    session: Session,
    *,
    appid: str,
    wechat_session: WeChatSession,
    accept_terms: bool,
    data_key: bytes,
    now: datetime,
) -> SignedIn:
    """The resident behind an openid, made at the first sign-in, with the session key kept for WeRun data.

    Two first sign-ins of one person at once give one resident: the second INSERT waits for the first and then finds it.

    Raises TermsRequired, AccountDisabled.
    """
    resident_id = _resident_of(session, appid, wechat_session.openid)
    is_new = False
    if resident_id is None:
        if not accept_terms:
            raise TermsRequired
        resident_id = _register(session, appid, wechat_session, data_key, now)
        is_new = resident_id is not None
        resident_id = resident_id or _resident_of(session, appid, wechat_session.openid)
    if resident_id is None:
        raise AssertionError("an openid that conflicts has a resident")
    if not is_new:
        _require_enabled(session, resident_id)
        session.execute(
            sa.update(WechatIdentity)
            .where(WechatIdentity.appid == appid, WechatIdentity.openid == wechat_session.openid)
            .values(session_key_sealed=_sealed_session_key(wechat_session, resident_id, data_key))
        )
    if accept_terms:
        _give(session, resident_id, ConsentPurpose.TERMS, now=now)
    elif not has_consent(session, resident_id, ConsentPurpose.TERMS):
        raise TermsRequired
    return SignedIn(resident_id, is_new)


def profile(session: Session, resident_id: UUID, *, data_key: bytes) -> Profile:
    """The resident's own profile. Raises NotFound."""
    row = session.get(Resident, resident_id, populate_existing=True)
    if row is None:
        raise NotFound
    return Profile(
        id=row.resident_id,
        community_code=row.community_code,
        nickname=row.nickname,
        born_in=row.born_in,
        phone=None if row.phone_sealed is None else _masked(_phone(row.phone_sealed, resident_id, data_key)),
        created_at=row.created_at,
    )


def update_profile(session: Session, resident_id: UUID, *, changes: dict[str, Any], now: datetime) -> None:
    """Change `community_code`, `nickname` or `born_in`; None takes back one of the last two.

    Raises CommunityUnknown, InvalidRequest for a year that has not begun, NotFound.
    """
    today = business_day(now)
    if "community_code" in changes:
        community_for(session, changes["community_code"], today)
    if (changes.get("born_in") or 0) > today.year:
        raise InvalidRequest(errors=[{"pointer": "/born_in", "message": "This year has not begun."}])
    if changes:
        _change(session, resident_id, **changes)


def set_phone(session: Session, resident_id: UUID, *, phone: str, data_key: bytes) -> None:
    """Keep a phone number that WeChat has vouched for, E.164. Raises PhoneTaken by its constraint, NotFound."""
    _change(
        session,
        resident_id,
        phone_sealed=seal(data_key, _PHONE, str(resident_id), phone.encode()),
        phone_hash=keyed_hash(data_key, _PHONE, phone),
    )


def with_phone(session: Session, *, phone: str, data_key: bytes) -> Resident | None:
    """The resident who has this phone number, E.164; None for nobody's."""
    hashed = keyed_hash(data_key, _PHONE, phone)
    return session.scalar(
        sa.select(Resident).where(Resident.phone_hash == hashed).execution_options(populate_existing=True)
    )


def set_enabled(session: Session, actor: Actor, resident_id: UUID, *, enabled: bool, now: datetime) -> Resident:
    """Let a resident in the actor's scope in or keep them out; keeping out ends their sign-ins with the next request.

    A resident who has not chosen a community yet belongs to the whole district. Raises NotFound.
    """
    found = session.get(Resident, resident_id)
    if found is None:
        raise NotFound
    if found.community_code is not None:
        actor.require_cover(found.community_code)
    elif actor.division is None or len(actor.division) > DISTRICT_CODE_LENGTH:
        raise NotFound
    _change(session, resident_id, enabled=enabled)
    if not enabled:
        sessions.end_all(session, resident_id, "disabled", now=now)
    audit.record(session, actor, "resident.enable" if enabled else "resident.disable", str(resident_id), now=now)
    session.refresh(found)
    return found


def require_home(session: Session, resident_id: UUID) -> str:
    """The community of a resident. Raises HomeCommunityMissing for one who has not chosen one."""
    home = session.scalar(sa.select(Resident.community_code).where(Resident.resident_id == resident_id))
    if home is None:
        raise HomeCommunityMissing
    return home


def session_key_of(session: Session, resident_id: UUID, data_key: bytes) -> str:
    """The session key of the resident's newest WeChat sign-in, to open WeRun data with.

    Raises WeChatDataUnreadable when there is none that can be read: the person signs in again.
    """
    sealed = session.scalar(
        sa.select(WechatIdentity.session_key_sealed).where(WechatIdentity.resident_id == resident_id)
    )
    if sealed is None:
        raise WeChatDataUnreadable
    try:
        return unseal(data_key, _SESSION_KEY, str(resident_id), sealed).decode()
    except BadSeal as error:
        raise WeChatDataUnreadable from error


def has_consent(session: Session, resident_id: UUID, purpose: ConsentPurpose, *, subject: str = "") -> bool:
    """Whether the consent stands now, to the wording that holds now."""
    standing = sa.select(Consent.id).where(
        *_standing(resident_id, purpose, subject), Consent.text_version == TEXT_VERSIONS[purpose]
    )
    return session.scalar(sa.select(standing.exists())) is True


def consents(session: Session, resident_id: UUID) -> list[ConsentState]:
    """Every purpose with its state, and the standing consents for partners after them."""
    rows: Sequence[Consent] = session.scalars(
        sa.select(Consent)
        .where(Consent.resident_id == resident_id, Consent.withdrawn_at.is_(None))
        .order_by(Consent.subject)
        .execution_options(populate_existing=True)
    ).all()
    given: dict[ConsentPurpose, Consent] = {
        row.purpose: row for row in rows if row.purpose is not ConsentPurpose.PARTNER
    }
    wanted = (ConsentPurpose.TERMS, *OPTIONAL_PURPOSES)
    own = [_state(purpose, given.get(purpose)) for purpose in wanted]
    return own + [_state(row.purpose, row) for row in rows if row.purpose is ConsentPurpose.PARTNER]


def optional_purpose(name: str) -> ConsentPurpose:
    """The purpose of this name that is given and taken back by itself. Raises NotFound."""
    for purpose in OPTIONAL_PURPOSES:
        if purpose.value == name:
            return purpose
    raise NotFound


def give_consent(
    session: Session, resident_id: UUID, *, purpose: ConsentPurpose, text_version: str | None, now: datetime
) -> ConsentState:
    """Give a consent of no subject; giving it twice is giving it once. `text_version` is what the person was shown.

    Raises ConsentTextOutdated.
    """
    if text_version not in (None, TEXT_VERSIONS[purpose]):
        raise ConsentTextOutdated(current_text_version=TEXT_VERSIONS[purpose])
    _give(session, resident_id, purpose, now=now)
    row = session.scalar(
        sa.select(Consent).where(*_standing(resident_id, purpose, "")).execution_options(populate_existing=True)
    )
    return _state(purpose, row)


def withdraw_consent(session: Session, resident_id: UUID, *, purpose: ConsentPurpose, now: datetime) -> None:
    """Take a consent of no subject back; as easy as giving it (PIPL 15), and no fault when it was not given."""
    _withdraw(session, *_standing(resident_id, purpose, ""), now=now)


def _resident_of(session: Session, appid: str, openid: str) -> UUID | None:
    return session.scalar(
        sa.select(WechatIdentity.resident_id).where(WechatIdentity.appid == appid, WechatIdentity.openid == openid)
    )


def _register(
    session: Session, appid: str, wechat_session: WeChatSession, data_key: bytes, now: datetime
) -> UUID | None:
    """A new resident for an openid; None when another sign-in made it meanwhile."""
    resident_id = new_id()
    added = session.scalar(
        insert(WechatIdentity)
        .values(
            appid=appid,
            openid=wechat_session.openid,
            resident_id=resident_id,
            session_key_sealed=_sealed_session_key(wechat_session, resident_id, data_key),
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=["appid", "openid"])
        .returning(WechatIdentity.resident_id)
    )
    if added is not None:
        session.execute(sa.insert(Resident).values(resident_id=resident_id, created_at=now))
    return added


def _require_enabled(session: Session, resident_id: UUID) -> None:
    # The row is held until the sign-in commits: whoever disables the person at this moment comes either before, and is
    # seen here, or after, and ends the sign-in that this transaction opens.
    enabled = session.scalar(
        sa.select(Resident.enabled).where(Resident.resident_id == resident_id).with_for_update(read=True)
    )
    if not enabled:
        raise AccountDisabled


def _sealed_session_key(wechat_session: WeChatSession, resident_id: UUID, data_key: bytes) -> bytes:
    return seal(data_key, _SESSION_KEY, str(resident_id), wechat_session.session_key.encode())


def _change(session: Session, resident_id: UUID, **values: Any) -> None:
    changed = sa.update(Resident).where(Resident.resident_id == resident_id).values(**values)
    if session.scalar(changed.returning(Resident.resident_id)) is None:
        raise NotFound


def _phone(sealed: bytes, resident_id: UUID, data_key: bytes) -> str:
    return unseal(data_key, _PHONE, str(resident_id), sealed).decode()


def _masked(phone: str) -> str:
    """+8613800138000 as +86*******8000: enough to recognise one's own."""
    return phone[:3] + "*" * (len(phone) - 7) + phone[-4:]


def _standing(resident_id: UUID, purpose: ConsentPurpose, subject: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        Consent.resident_id == resident_id,
        Consent.purpose == purpose,
        Consent.subject == subject,
        Consent.withdrawn_at.is_(None),
    )


def _give(session: Session, resident_id: UUID, purpose: ConsentPurpose, *, now: datetime) -> None:
    """Have a standing consent to the current wording; one to an older wording ends with it."""
    version = TEXT_VERSIONS[purpose]
    _withdraw(session, *_standing(resident_id, purpose, ""), Consent.text_version != version, now=now)
    session.execute(
        insert(Consent)
        .values(resident_id=resident_id, id=new_id(), purpose=purpose, subject="", text_version=version, given_at=now)
        .on_conflict_do_nothing(
            index_elements=["resident_id", "purpose", "subject"], index_where=Consent.withdrawn_at.is_(None)
        )
    )


def _withdraw(session: Session, *which: sa.ColumnElement[bool], now: datetime) -> None:
    # Clocks of two servers differ by moments: nothing is withdrawn before it was given.
    session.execute(sa.update(Consent).where(*which).values(withdrawn_at=sa.func.greatest(now, Consent.given_at)))


def _state(purpose: ConsentPurpose, row: Consent | None) -> ConsentState:
    return ConsentState(
        purpose=purpose,
        subject=row.subject if row else "",
        current_text_version=TEXT_VERSIONS[purpose],
        text_version=row.text_version if row else None,
        given_at=row.given_at if row else None,
    )
