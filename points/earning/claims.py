"""What comes in to be paid, and what is answered."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from points.earning.models import Behaviour, Grade, Outcome


class Claim(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One thing that a resident did, from whatever source. Distances in metres, weights in grams, times aware.

    `mode` is the travel mode, the waste category or the material. A feed brings thousands of these, so they are msgspec
    structures: made in a third of a dataclass's time. `steps` are the day's so far; only what they are worth more than
    `steps_before` is paid, so that ten syncs of 400 steps earn what one of 4,000 does, and count
    as one act.
    """

    resident_id: UUID
    behaviour: Behaviour
    mode: str
    grade: Grade
    source: str
    external_id: str
    started_at: datetime
    ended_at: datetime
    received_at: datetime
    distance_m: int | None = None
    weight_g: int | None = None
    steps: int | None = None
    steps_before: int = 0  # what of the day's steps was claimed earlier
    site: str | None = None
    site_kind: str | None = None
    timing: str | None = None
    channel: str | None = None


class Reason(enum.StrEnum):
    """Why a claim was not paid, or not in full. Stable codes; the texts are below."""

    DUPLICATE = "duplicate"
    OVERLAP = "overlaps-another-trip"
    NO_RULE = "no-rule"
    TOO_SMALL = "below-minimum"
    TOO_LARGE = "above-maximum"
    TOO_FAST = "too-fast"
    TOO_LATE = "too-late"
    FUTURE = "in-the-future"
    BAD_SPAN = "bad-time-span"
    NO_COMMUNITY = "no-home-community"
    UNKNOWN_RESIDENT = "unknown-resident"
    CAPPED = "cap-reached"
    PARTNER_BUDGET = "partner-budget-exhausted"
    REVOKED = "revoked"


REASON_TEXTS: Mapping[Reason, tuple[str, str]] = {
    Reason.DUPLICATE: ("这条记录已经提交过, 不会重复计分", "This record was sent before and is not paid again"),
    Reason.OVERLAP: ("与另一次出行的时间重叠", "It overlaps in time with another trip"),
    Reason.NO_RULE: ("当前规则不奖励此类行为", "No rule in force rewards this"),
    Reason.TOO_SMALL: ("未达到计分的最小数量", "It is below the smallest quantity that is rewarded"),
    Reason.TOO_LARGE: ("超过单次记录允许的最大数量", "It is above the largest quantity of one record"),
    Reason.TOO_FAST: ("速度超出此出行方式的合理范围", "It is faster than this way of travelling can be"),
    Reason.TOO_LATE: ("超过补报期限", "It came after the closing day for late records"),
    Reason.FUTURE: ("发生时间在未来", "It lies in the future"),
    Reason.BAD_SPAN: ("起止时间不合理", "Its start and end do not make sense"),
    Reason.NO_COMMUNITY: ("请先选择所在社区", "Choose your home community first"),
    Reason.UNKNOWN_RESIDENT: ("未找到居民或账号已停用", "The resident is unknown or disabled"),
    Reason.CAPPED: ("已达到当日或当周积分上限", "The day's or the week's cap of points is reached"),
    Reason.PARTNER_BUDGET: ("合作方当日积分额度已用完", "The partner's points budget of the day is used up"),
    Reason.REVOKED: ("积分已被撤回", "The points were taken back"),
}


@dataclass(frozen=True, slots=True)
class Award:
    """The answer to one claim: its outcome, why, and the points paid. `activity_id` is None for a duplicate."""

    outcome: Outcome | None  # None: a duplicate, of which nothing new was stored
    reason: Reason | None
    points: int
    saved_co2e_mg: int
    activity_id: UUID | None

    @property
    def code(self) -> str:
        """The outcome as one word for counting: awarded, duplicate, refused or held."""
        return "duplicate" if self.outcome is None else self.outcome.value
