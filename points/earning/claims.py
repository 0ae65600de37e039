"""What comes in to be paid, and what is answered."""

import enum
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from points.earning.models import Behaviour, Grade, Outcome


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
    # Waste
    OUTSIDE_HOURS = "outside-hours"
    SITE_CLOSED = "site-closed"
    CATEGORY_NOT_TAKEN = "category-not-taken"
    UNSORTED = "unsorted"
    SPOT_CHECK_FAILED = "spot-check-failed"
    SEQUENCE_USED = "sequence-used"
    SAME_BAG = "same-bag"
    WEIGHING_DISPUTED = "weighing-disputed"
    WEIGHING_CORRECTED = "weighing-corrected"
    # Travel
    TRACK_TOO_SHORT = "track-too-short"
    TRACK_TOO_SLOW = "track-too-slow"
    TRACK_GAP = "track-gap"
    TRACK_JUMP = "track-jump"
    TRACK_REPEATED = "track-repeated"
    TRACK_MOCKED = "track-mocked"
    TRACK_NO_REST = "track-no-rest"
    TRACK_OUT_OF_HOURS = "track-out-of-hours"
    TRACK_OTHER_MODE = "track-other-mode"
    TRACK_UNCLEAR = "track-unclear"
    RIDE_UNCONFIRMED = "ride-unconfirmed"
    PAID_AS_STEPS = "paid-as-steps"
    # Bounds
    GRADE_CEILING = "grade-ceiling-reached"
    HOUSEHOLD_LIMIT = "household-limit-reached"
    DEVICE_LIMIT = "device-limit-reached"
    STAFF_LIMIT = "staff-limit-reached"
    SITE_LIMIT = "site-limit-reached"
    # Review
    SAME_PLACE_AND_SECOND = "same-place-and-second"
    IDENTICAL_TRACK = "identical-track"
    BURST = "burst"
    SHARED_DEVICE = "shared-device"
    IMPOSSIBLE_PAIR = "impossible-pair"
    WEIGHT_OUTLIER = "weight-outlier"
    STEPS_UNNATURAL = "steps-unnatural"
    UNDER_REVIEW = "under-review"
    REVIEW_REFUSED = "review-refused"
    AUDIT_FAILED = "audit-failed"


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
    device: str | None = None  # what vouched for it: a bin, a scanner, the phone's installation
    staff_id: UUID | None = None  # who confirmed it
    refusal: Reason | None = None  # the source's own finding: recorded, and not paid
    hold: Reason | None = None  # the source's own doubt: recorded, and a person decides


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
    Reason.OUTSIDE_HOURS: (
        "不在投放时段内, 已记录但不计分",
        "It was outside the opening hours: recorded, and not paid",
    ),
    Reason.SITE_CLOSED: ("该投放点已停用", "This site is closed"),
    Reason.CATEGORY_NOT_TAKEN: ("该投放点不收此类垃圾", "This site does not take this category"),
    Reason.UNSORTED: ("督导员检查为混投或不合格", "The supervisor found it badly sorted or mixed"),
    Reason.SPOT_CHECK_FAILED: ("抽查不合格, 积分已撤回", "It failed a spot check, and its points were taken back"),
    Reason.SAME_BAG: (
        "同一袋垃圾已有另一条记录, 以该记录为准",
        "Another record of the same bag counts in its place",
    ),
    Reason.SEQUENCE_USED: ("设备的这一次投放已经计分", "This act of the device has been paid already"),
    Reason.WEIGHING_DISPUTED: ("称重结果有争议, 等待复核", "The weighing is disputed and waits for a review"),
    Reason.WEIGHING_CORRECTED: (
        "称重单已更正, 以新单为准",
        "The weighing slip was corrected: the new one counts",
    ),
    Reason.TRACK_TOO_SHORT: ("轨迹太短, 无法核实", "The track is too short to be checked"),
    Reason.TRACK_TOO_SLOW: ("速度低于此出行方式的合理范围", "It is slower than this way of travelling"),
    Reason.TRACK_GAP: ("轨迹中断过长", "The track breaks off for too long"),
    Reason.TRACK_JUMP: ("轨迹中有不可能的位置跳变", "The track jumps in an impossible way"),
    Reason.TRACK_REPEATED: ("与以前的轨迹重复", "It repeats an earlier track"),
    Reason.TRACK_MOCKED: ("手机报告使用了模拟定位", "The phone reports a mock location"),
    Reason.TRACK_NO_REST: ("连续运动时间过长", "It goes on for longer than anybody can without a rest"),
    Reason.TRACK_OUT_OF_HOURS: ("不在此出行方式的计分时段内", "It is outside the hours in which this is rewarded"),
    Reason.TRACK_OTHER_MODE: ("运动特征与申报的出行方式不符", "It does not move like the way of travelling named"),
    Reason.TRACK_UNCLEAR: (
        "运动特征不足以确认出行方式, 等待人工审核",
        "Its motion does not tell the mode: a person decides",
    ),
    Reason.RIDE_UNCONFIRMED: (
        "公交、地铁需有乘车记录或线路匹配, 等待核实",
        "A bus or metro trip needs a ride record or a match with a line: it waits",
    ),
    Reason.PAID_AS_STEPS: ("同一段步行已按步数计分", "The same walk has been paid by its steps"),
    Reason.GRADE_CEILING: ("该证据等级的每周上限已达到", "The week's ceiling for this grade of evidence is reached"),
    Reason.HOUSEHOLD_LIMIT: ("家庭当日上限已达到", "The household's limit of the day is reached"),
    Reason.DEVICE_LIMIT: ("该设备当日上限已达到", "The device's limit of the day is reached"),
    Reason.STAFF_LIMIT: ("该工作人员当日确认上限已达到", "The member of staff's limit of the day is reached"),
    Reason.SITE_LIMIT: ("该站点当日上限已达到", "The site's limit of the day is reached"),
    Reason.SAME_PLACE_AND_SECOND: (
        "与他人在同一地点同一秒的记录, 等待人工审核",
        "Others have a record at the same place in the same second: a person decides",
    ),
    Reason.IDENTICAL_TRACK: ("轨迹与他人几乎相同, 等待人工审核", "The track nearly equals another's: a person decides"),
    Reason.BURST: ("短时间内记录过多, 等待人工审核", "Too many records in a short time: a person decides"),
    Reason.SHARED_DEVICE: ("同一设备上有多个账号, 等待人工审核", "Many people use one device: a person decides"),
    Reason.IMPOSSIBLE_PAIR: (
        "与另一条记录相隔太远、时间太近, 等待人工审核",
        "It is too far from another record in too short a time: a person decides",
    ),
    Reason.WEIGHT_OUTLIER: (
        "重量与该设备的常见值相差过大, 等待人工审核",
        "Its weight is unusual for this bin: a person decides",
    ),
    Reason.STEPS_UNNATURAL: (
        "步数不自然, 等待人工审核",
        "These step counts look unnatural: a person decides",
    ),
    Reason.UNDER_REVIEW: ("相关记录正在人工审核", "Related records are being reviewed by a person"),
    Reason.REVIEW_REFUSED: ("经人工审核未通过, 可以申诉", "A person has reviewed and refused it; you can appeal"),
    Reason.AUDIT_FAILED: ("经随机审计核实有误, 可以申诉", "A random audit found it wrong; you can appeal"),
}


class Award(msgspec.Struct, frozen=True, gc=False):
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
