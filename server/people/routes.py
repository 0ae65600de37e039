"""People over HTTP: signing in and out, and what a resident keeps of themself."""

from typing import Any

import marshmallow as ma
from flask_jwt_extended import get_jwt, verify_jwt_in_request
from flask_limiter.util import get_remote_address

from server import limits
from server.access import Permission, Role, actor, public, require
from server.api import Blueprint
from server.clock import now
from server.database import db, transaction
from server.limits import limiter
from server.people import residents, sessions, staff
from server.people.models import ConsentPurpose, Staff
from server.people.residents import ConsentState, Profile
from server.people.sessions import RefreshTokenReused, Tokens
from server.people.staff import NAME_LENGTH_MAX, PASSWORD_LENGTH_MAX
from server.people.wechat_client import wechat_client
from server.settings import settings

blueprint = Blueprint(
    "people",
    __name__,
    url_prefix="/api/v1",
    description="登录、个人资料与授权 · Sign-in, profile, consents",
)

# A shown name: no control, invisible or direction-changing characters, no lone surrogates, none of the private ones,
# and no blank at either end. The look-ahead is there because Python's `$` also matches before a last line feed.
_UNFIT = (
    r"\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ue000-\uf8ff\ufeff"
    r"\ufff9-\uffff"
)
SHOWN_NAME = ma.validate.Regexp(rf"^[^\s{_UNFIT}]([^{_UNFIT}]*[^\s{_UNFIT}])?(?!\n)$")
ACCOUNT_NAME = ma.validate.Regexp(rf"^[^\s{_UNFIT}]+(?!\n)$")
_WECHAT_CODE = [ma.validate.Length(1, 128), ma.validate.Regexp(r"^[A-Za-z0-9_-]+(?!\n)$")]
_COMMUNITY_CODE = [ma.validate.Length(equal=12), ma.validate.Regexp(r"^[0-9]{12}(?!\n)$")]


class WechatSignInEntry(ma.Schema):
    """What a mini-program sends to sign a resident in."""

    code = ma.fields.String(
        required=True,
        validate=_WECHAT_CODE,
        metadata={"description": "wx.login 的一次性 code · One use, 5 minutes"},
    )
    accept_terms = ma.fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "首次登录须为 true · True at the first sign-in: the person accepted the terms"},
    )


class StaffSignInEntry(ma.Schema):
    """A staff member's name and password."""

    name = ma.fields.String(required=True, validate=[ma.validate.Length(1, NAME_LENGTH_MAX), ACCOUNT_NAME])
    password = ma.fields.String(
        required=True,
        validate=ma.validate.Length(1, PASSWORD_LENGTH_MAX),
        metadata={"format": "password"},
    )


class TokensView(ma.Schema):
    """An access token for 15 minutes and a refresh token for its one use within 30 days."""

    access_token = ma.fields.String(
        required=True, metadata={"description": "Send as `Authorization: Bearer …` with every request"}
    )
    refresh_token = ma.fields.String(
        required=True, metadata={"description": "Send as Bearer to /sign-in/refresh, once; its answer has the next one"}
    )
    expires_in_s = ma.fields.Integer(required=True)
    token_type = ma.fields.String(required=True)


class WechatTokensView(TokensView):
    """The tokens, and whether this sign-in made the account."""

    is_new = ma.fields.Boolean(required=True)


class ProfileEntry(ma.Schema):
    """What a resident may change; what is left out stays, null takes back."""

    community_code = ma.fields.String(
        validate=_COMMUNITY_CODE, metadata={"description": "所在社区代码 · 12 digits, from /api/v1/places/divisions"}
    )
    nickname = ma.fields.String(allow_none=True, validate=[ma.validate.Length(1, 24), SHOWN_NAME])
    born_in = ma.fields.Integer(
        allow_none=True, strict=True, validate=ma.validate.Range(1900, 2100), metadata={"description": "Year of birth"}
    )


class ProfileView(ma.Schema):
    """A resident as they see themself."""

    id = ma.fields.UUID(required=True)
    community_code = ma.fields.String(required=True, allow_none=True)
    nickname = ma.fields.String(required=True, allow_none=True)
    born_in = ma.fields.Integer(required=True, allow_none=True)
    phone = ma.fields.String(required=True, allow_none=True, metadata={"description": "Masked, such as +86*******8000"})
    created_at = ma.fields.AwareDateTime(required=True)


class PhoneEntry(ma.Schema):
    """The one-use code of the mini-program's phone-number button."""

    code = ma.fields.String(required=True, validate=_WECHAT_CODE, metadata={"description": "Not the code of wx.login"})


class ConsentEntry(ma.Schema):
    """Which wording the person was shown."""

    text_version = ma.fields.String(
        load_default=None,
        validate=[ma.validate.Length(1, 20), ma.validate.Regexp(r"^[0-9A-Za-z.-]+(?!\n)$")],
        metadata={"description": "`current_text_version` of the list of consents; left out: the current one"},
    )


class ConsentView(ma.Schema):
    """One consent as it stands."""

    purpose = ma.fields.Enum(ConsentPurpose, by_value=True, required=True)
    subject = ma.fields.String(required=True, metadata={"description": "For `partner`: the partner's code"})
    current_text_version = ma.fields.String(required=True)
    text_version = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The wording agreed to; an older one counts no more"}
    )
    given_at = ma.fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "null: not given, or taken back"}
    )


class ConsentList(ma.Schema):
    """Every consent of a resident; few enough for one answer."""

    items = ma.fields.List(ma.fields.Nested(ConsentView), required=True)


class OwnAccountView(ma.Schema):
    """A member of staff as they see themself."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    role = ma.fields.Enum(Role, by_value=True, required=True)
    division = ma.fields.String(required=True, allow_none=True)
    organisation_id = ma.fields.UUID(required=True, allow_none=True)


@blueprint.post("/sign-in/wechat")
@public
@limiter.limit(limits.phone_sign_in_limit, key_func=get_remote_address)
@blueprint.arguments(WechatSignInEntry, example={"code": "0a1Bcd2eFGhIjk3", "accept_terms": True})
@blueprint.response(200, WechatTokensView)
def sign_in_with_wechat(entry: dict[str, Any]) -> dict[str, Any]:
    """微信登录. Sign a resident in with the code of wx.login; the first time makes the account.

    Refused with `terms-required` when the terms were not yet accepted: ask wx.login for a new code then.
    """
    wechat_session = wechat_client().code_to_session(entry["code"])
    configured, instant = settings(), now()
    with transaction() as session:
        who = residents.sign_in_wechat(
            session,
            appid=configured.wechat_appid,
            wechat_session=wechat_session,
            accept_terms=entry["accept_terms"],
            data_key=configured.data_key,
            now=instant,
        )
        tokens = sessions.begin(session, who.resident_id, is_resident=True, now=instant)
    return {**_token_members(tokens), "is_new": who.is_new}


@blueprint.post("/sign-in/staff")
@public
@limiter.limit(limits.sign_in_limit, key_func=get_remote_address)
@blueprint.arguments(StaffSignInEntry, example={"name": "nankai-district", "password": "a long sentence is best"})
@blueprint.response(200, TokensView)
def sign_in_with_password(entry: dict[str, Any]) -> Tokens:
    """工作人员登录. Sign a member of staff in."""
    with transaction() as session:
        credential = staff.credential_for(session, entry["name"])
    checked = staff.check_password(credential, entry["password"])
    with transaction() as session:
        staff_id = staff.sign_in_staff(session, checked=checked)
        return sessions.begin(session, staff_id, is_resident=False, now=now())


@blueprint.post("/sign-in/refresh")
@public
@limiter.limit(limits.phone_sign_in_limit, key_func=get_remote_address)
@blueprint.doc(security=[{"bearer": []}])
@blueprint.response(200, TokensView)
def refresh_sign_in() -> Tokens:
    """刷新令牌. Exchange a refresh token, sent as Bearer, for the next pair.

    Each works once. For ten seconds the one just used gives the same next generation again, because its answer may have
    been lost; after that a second use ends the sign-in, for one of the two users is a thief.
    """
    verify_jwt_in_request(refresh=True)
    with transaction() as session:
        tokens = sessions.refresh(session, get_jwt(), now=now())
    if tokens is None:  # after the commit: the ending of the sign-in must outlive the refusal
        raise RefreshTokenReused
    return tokens


@blueprint.post("/sign-out")
@require(Permission.SESSION_END)
@blueprint.response(204)
def sign_out() -> None:
    """退出登录. End this sign-in; its tokens are refused from the next request on."""
    with transaction() as session:
        sessions.end(session, actor(), now=now())


@blueprint.get("/me")
@require(Permission.PROFILE_OWN)
@blueprint.response(200, ProfileView)
def read_profile() -> Profile:
    """个人资料. Read the own profile."""
    with transaction() as session:
        return residents.profile(session, actor().id, data_key=settings().data_key)


@blueprint.patch("/me")
@require(Permission.PROFILE_OWN)
@blueprint.arguments(ProfileEntry, example={"community_code": "120104001001", "nickname": "南开小荷"})
@blueprint.response(200, ProfileView)
def change_profile(changes: dict[str, Any]) -> Profile:
    """修改资料. Change the own profile. Activities count for the community of the day on which they come in."""
    person = actor().id
    with transaction() as session:
        residents.update_profile(session, person, changes=changes, now=now())
        return residents.profile(session, person, data_key=settings().data_key)


@blueprint.post("/me/phone")
@require(Permission.PROFILE_OWN)
@blueprint.arguments(PhoneEntry)
@blueprint.response(200, ProfileView)
def set_phone(entry: dict[str, Any]) -> Profile:
    """绑定手机号. Keep the phone number that WeChat vouches for."""
    person = actor().id
    db.session.rollback()  # the look-up of the actor began a transaction, and WeChat may take seconds
    phone = wechat_client().phone_number(entry["code"])
    with transaction() as session:
        residents.set_phone(session, person, phone=phone, data_key=settings().data_key)
        return residents.profile(session, person, data_key=settings().data_key)


@blueprint.get("/me/consents")
@require(Permission.PROFILE_OWN)
@blueprint.response(200, ConsentList)
def list_consents() -> dict[str, list[ConsentState]]:
    """授权列表. List every consent with its state."""
    with transaction() as session:
        return {"items": residents.consents(session, actor().id)}


@blueprint.put("/me/consents/<string:purpose>")
@require(Permission.PROFILE_OWN)
@blueprint.arguments(ConsentEntry, required=False)
@blueprint.response(200, ConsentView)
def give_consent(entry: dict[str, Any], purpose: str) -> ConsentState:
    """同意授权. Agree to one purpose by itself.

    `werun-steps`: count WeChat's steps. `ranking`: appear in rankings under the nickname. `tracks`: send tracks of
    trips as evidence, kept for 30 days at the most.
    """
    with transaction() as session:
        return residents.give_consent(
            session, actor().id, purpose=residents.optional_purpose(purpose), now=now(), **entry
        )


@blueprint.delete("/me/consents/<string:purpose>")
@require(Permission.PROFILE_OWN)
@blueprint.response(204)
def withdraw_consent(purpose: str) -> None:
    """撤回授权. Take `werun-steps`, `ranking` or `tracks` back; nothing else changes for the person.

    With `tracks` every track that was sent goes at once.
    """
    with transaction() as session:
        residents.withdraw_consent(session, actor().id, purpose=residents.optional_purpose(purpose), now=now())


@blueprint.get("/staff/me")
@require(Permission.SESSION_END)
@blueprint.response(200, OwnAccountView)
def read_own_account() -> Staff:
    """我的工作账号. Read the own staff account: name, role and scope."""
    with transaction() as session:
        return staff.own_account(session, actor())


def _token_members(tokens: Tokens) -> dict[str, Any]:
    return {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "expires_in_s": tokens.expires_in_s,
        "token_type": tokens.token_type,
    }
