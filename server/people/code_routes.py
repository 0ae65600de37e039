"""Residents' codes over HTTP: showing one, the keys that check it, cards, and which resident a member of staff is."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Response

from server.access import Permission, actor, public, require
from server.api import Blueprint
from server.clock import now
from server.database import run_transaction, transaction
from server.documents import documents
from server.entries import TRIMMED_LINE
from server.files.serving import download
from server.idempotency import idempotent
from server.limits import limiter
from server.people import card_drawing, cards, signed_codes, staff_links
from server.people.models import CodePurpose, PrintedCard, StaffLink
from server.people.resident_codes import TEXT_LENGTH_MAX
from server.people.signed_codes import ShownCode
from server.settings import settings

blueprint = Blueprint(
    "resident-codes",
    __name__,
    url_prefix="/api/v1",
    description="居民码与居民卡 · Residents' codes and printed cards",
)

# A member of staff sits opposite each of them.
CARDS = "120 per day"
# A mistyped card or a stale code is tried again at once, and a guesser gives up.
LINKS = "10 per minute;50 per day"

_REASON = [ma.validate.Length(1, 200), TRIMMED_LINE]


class ResidentCodeQuery(ma.Schema):
    """What the code is for."""

    purpose = ma.fields.Enum(
        CodePurpose,
        by_value=True,
        required=True,
        metadata={"description": "用途 · A code for one purpose serves no other"},
    )


class ResidentCodeView(ma.Schema):
    """The text for the QR code, and when to ask for the next one."""

    text = ma.fields.String(required=True)
    purpose = ma.fields.Enum(CodePurpose, by_value=True, required=True)
    changes_at = ma.fields.AwareDateTime(required=True)


class CodeKeyView(ma.Schema):
    """A public key; it signs codes whose slot begins within its validity."""

    number = ma.fields.Integer(required=True)
    algorithm = ma.fields.Constant("Ed25519")
    public_key = ma.fields.Function(
        lambda key: key.public.hex(), metadata={"type": "string", "description": "32 bytes in hex (RFC 8032)"}
    )
    valid_from = ma.fields.AwareDateTime(required=True)
    valid_until = ma.fields.AwareDateTime(required=True)


class CodeKeysView(ma.Schema):
    """What a device keeps to check codes without a net, and the two figures that it needs with them."""

    slot_s = ma.fields.Integer(required=True, metadata={"description": "A code's lifetime in seconds"})
    slots_off_max = ma.fields.Integer(required=True, metadata={"description": "By which a device's clock may differ"})
    keys = ma.fields.List(ma.fields.Nested(CodeKeyView), required=True)


class CardEntry(ma.Schema):
    """A card to print."""

    for_household = ma.fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "家庭卡 · Whoever lives in the holder's household may carry it"},
    )
    replaces_because = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=_REASON,
        metadata={"description": "补发理由 · The card that stands ends, for this reason"},
    )
    format = ma.fields.String(load_default="pdf", validate=ma.validate.OneOf(["pdf", "svg"]))


class CardView(ma.Schema):
    """A card, without what is printed on it."""

    id = ma.fields.UUID(required=True)
    for_household = ma.fields.Function(
        lambda card: card.household_id is not None, metadata={"type": "boolean"}, required=True
    )
    issued_at = ma.fields.AwareDateTime(required=True)
    revoked_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    revoked_because = ma.fields.String(required=True, allow_none=True)
    use_count = ma.fields.Integer(required=True)
    last_used_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class CardList(ma.Schema):
    """Every card of a resident, newest first; few enough for one answer."""

    items = ma.fields.List(ma.fields.Nested(CardView), required=True)


class CardRevocationEntry(ma.Schema):
    """Why a card ends, or a link is undone."""

    reason = ma.fields.String(required=True, validate=_REASON)


class StaffLinkEntry(ma.Schema):
    """The code of one's own resident account, or one's word that there is none."""

    code = ma.fields.String(
        load_default=None,
        validate=ma.validate.Length(1, TEXT_LENGTH_MAX),
        metadata={"description": "本人居民码 · Of GET /me/resident-code?purpose=staff-link, from one's own phone"},
    )
    statement = ma.fields.String(
        load_default=None,
        validate=_REASON,
        metadata={"description": "书面声明 · That one has no resident account, in one's own words"},
    )

    @ma.validates_schema
    def one_of_two(self, entry: dict[str, Any], **_: Any) -> None:
        """A code or a statement, not both and not neither."""
        if (entry.get("code") is None) == (entry.get("statement") is None):
            raise ma.ValidationError("Give either a code or a statement.", "code")


class StaffLinkView(ma.Schema):
    """Whether one may confirm what residents do. Which resident one is, is not told."""

    linked = ma.fields.Boolean(required=True)
    statement = ma.fields.String(required=True, allow_none=True)
    made_at = ma.fields.AwareDateTime(required=True, allow_none=True)


@blueprint.get("/me/resident-code")
@require(Permission.CODE_OWN)
@blueprint.arguments(ResidentCodeQuery, location="query")
@blueprint.response(200, ResidentCodeView)
def show_code(query: dict[str, Any]) -> ShownCode:
    """我的居民码. The own code for one purpose: another every 30 s, and each serves once."""
    return signed_codes.make(settings().data_key, actor().id, **query, now=now())


@blueprint.get("/me/resident-code.svg")
@require(Permission.CODE_OWN)
@blueprint.arguments(ResidentCodeQuery, location="query")
@blueprint.response(200, content_type="image/svg+xml")
def draw_code(query: dict[str, Any]) -> Response:
    """我的居民码图. The same code drawn as a QR code; X-Code-Changes-At says when to ask again."""
    shown = signed_codes.make(settings().data_key, actor().id, **query, now=now())
    answer = Response(documents.qr_svg(shown.text), content_type="image/svg+xml")
    answer.headers["X-Code-Changes-At"] = shown.changes_at.isoformat()
    answer.headers["Cache-Control"] = "no-store"
    return answer


@blueprint.get("/codes/keys")
@public
@blueprint.response(200, CodeKeysView)
def list_code_keys() -> dict[str, Any]:
    """居民码公钥. The public keys with which a registered device checks residents' codes without a net."""
    keys = signed_codes.public_keys(settings().data_key, now=now())
    return {
        "slot_s": signed_codes.SLOT_S,
        "slots_off_max": signed_codes.SLOTS_OFF_MAX,
        "keys": [keys[number] for number in sorted(keys)],
    }


@blueprint.get("/me/cards")
@require(Permission.CODE_OWN)
@blueprint.response(200, CardList)
def list_own_cards() -> dict[str, Any]:
    """我的居民卡. List the own cards."""
    with transaction() as session:
        return {"items": cards.own(session, actor())}


@blueprint.post("/me/cards/<uuid:card_id>/revocation")
@require(Permission.CODE_OWN)
@idempotent
@blueprint.arguments(CardRevocationEntry, example={"reason": "遗失"})
@blueprint.response(200, CardView)
def give_card_back(entry: dict[str, Any], card_id: UUID) -> PrintedCard:
    """挂失本人居民卡. End one's own card, such as a lost one; it serves nowhere from now on."""
    with transaction() as session:
        return cards.give_back(session, actor(), card_id, **entry, now=now())


# Not idempotent: the answer kept under a key would keep the code, of which nothing but a hash is kept.
@blueprint.post("/residents/<uuid:resident_id>/cards")
@require(Permission.CARD_ISSUE)
@limiter.limit(CARDS)
@blueprint.arguments(CardEntry)
@blueprint.response(200, content_type="application/pdf")
def issue_card(entry: dict[str, Any], resident_id: UUID) -> Response:
    """印制居民卡. Print a card for a resident of the own scope, as PDF or SVG. Nobody can print the same again."""
    form, key, person = entry.pop("format"), settings().data_key, actor()
    issued = run_transaction(
        lambda session: cards.issue(session, person, resident_id, **entry, data_key=key, now=now())
    )
    # Drawing takes a share of a second, and needs no transaction.
    content = card_drawing.draw(issued, form)
    return download(Response(content, content_type=documents.MEDIA_TYPES[form]), f"resident-card.{form}")


@blueprint.get("/residents/<uuid:resident_id>/cards")
@require(Permission.CARD_ISSUE)
@blueprint.response(200, CardList)
def list_cards(resident_id: UUID) -> dict[str, Any]:
    """居民卡列表. List the cards of a resident of the own scope."""
    with transaction() as session:
        return {"items": cards.list_cards(session, actor(), resident_id)}


@blueprint.post("/cards/<uuid:card_id>/revocation")
@require(Permission.CARD_ISSUE)
@idempotent
@blueprint.arguments(CardRevocationEntry, example={"reason": "持卡人搬离"})
@blueprint.response(200, CardView)
def revoke_card(entry: dict[str, Any], card_id: UUID) -> PrintedCard:
    """停用居民卡. End the card of a resident of the own scope, and tell them."""
    with transaction() as session:
        return cards.revoke(session, actor(), card_id, **entry, now=now())


@blueprint.get("/staff/me/resident")
@require(Permission.SESSION_END)
@blueprint.response(200, StaffLinkView)
def read_own_link() -> dict[str, Any]:
    """本人居民账号绑定情况. Whether one has linked one's own resident account, or declared that there is none."""
    with transaction() as session:
        return _link_members(staff_links.standing(session, actor()))


@blueprint.put("/staff/me/resident")
@require(Permission.SESSION_END)
@limiter.limit(LINKS)
@blueprint.arguments(StaffLinkEntry, example={"statement": "本人没有居民账号"})
@blueprint.response(200, StaffLinkView)
def link_own_resident(entry: dict[str, Any]) -> dict[str, Any]:
    """绑定本人居民账号或书面声明. Show the code of one's own resident account, or declare that one has none.

    Whoever confirms or decides what residents do must have done so; nobody serves themself or their household.
    """
    key = settings().data_key
    with transaction() as session:
        return _link_members(staff_links.make(session, actor(), **entry, data_key=key, now=now()))


@blueprint.post("/staff/<uuid:staff_id>/resident-undoing")
@require(Permission.STAFF_MANAGE)
@idempotent
@blueprint.arguments(CardRevocationEntry, example={"reason": "绑定有误"})
@blueprint.response(204)
def undo_staff_link(entry: dict[str, Any], staff_id: UUID) -> None:
    """撤销工作人员绑定. Take back the link or declaration of a member of staff, who then begins anew."""
    with transaction() as session:
        staff_links.undo(session, actor(), staff_id, **entry, now=now())


def _link_members(link: StaffLink | None) -> dict[str, Any]:
    if link is None:
        return {"linked": False, "statement": None, "made_at": None}
    return {"linked": link.resident_id is not None, "statement": link.statement, "made_at": link.made_at}
