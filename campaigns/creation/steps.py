"""The one table of moves of an application: from where to where, by whom, with what proven, and how long it may take.

The database holds the same table as a CHECK on the recorded moves, built from this one, and a trigger lets the state
change only together with a recorded move. So there is no way to a name but the one written here.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from server.access import Permission


class ApplicationState(enum.StrEnum):
    """Where an application stands."""

    DRAFT = "draft"  # 草稿
    SELF_ASSESSMENT = "self-assessment"  # 自评
    SUBMITTED = "submitted"  # 申报
    STREET_REVIEW = "street-review"  # 街道初审
    RETURNED = "returned"  # 退回补正
    DISTRICT_REVIEW = "district-review"  # 区级评审 (资料 + 现场)
    NOTICE = "notice"  # 公示
    OBJECTIONS = "objections"  # 异议处理
    NAMED = "named"  # 命名, 保留
    RECHECK = "recheck"  # 复查
    GRACE = "grace"  # 限期整改
    WITHDRAWN = "withdrawn"  # 摘牌
    REJECTED = "rejected"  # 未通过
    CANCELLED = "cancelled"  # 申请人撤回


class Move(enum.StrEnum):
    """What is done to an application."""

    BEGIN_SELF_ASSESSMENT = "begin-self-assessment"
    SUBMIT = "submit"
    CANCEL = "cancel"
    TAKE_UP = "take-up"
    RETURN = "return"
    RESUBMIT = "resubmit"
    FORWARD = "forward"
    REJECT = "reject"
    PUBLISH_NOTICE = "publish-notice"
    END_NOTICE = "end-notice"
    NAME = "name"
    BEGIN_RECHECK = "begin-recheck"
    RETAIN = "retain"
    GIVE_GRACE = "give-grace"
    REPORT_MENDED = "report-mended"
    WITHDRAW = "withdraw"


class Party(enum.StrEnum):
    """Who is to act, and who is told when they have not."""

    APPLICANT = "applicant"  # the staff of the community or organisation, or the resident of the household
    STREET = "street"
    DISTRICT = "district"
    CLOCK = "clock"


class Guard(enum.Enum):
    """What must be so before a move; campaigns.creation.guards says how each is found out."""

    ANSWERED = "every item answered"
    EVIDENCED = "evidence for every item that wants it"
    DECLARED = "every precondition declared"
    CONFIRMED = "every precondition confirmed"
    ASSESSED = "two assessments in, a third if they differ"
    PASSED = "the outcome passes the rubric"
    VISITED = "a visit on the spot, where the rubric wants one"
    NOTICE_OVER = "the last day of the notice past"
    OBJECTIONS_ANSWERED = "every objection answered"
    NONE_UPHELD = "no objection upheld"
    RECHECK_RECORDED = "the findings of the re-check recorded"
    GRACE_OVER = "the deadline of the grace past"


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table.

    `due_days` is how long whoever acts next may take, in calendar days from the end of the day of the move. None: no
    limit, or one that the move itself brings, such as the notice's last day. Only the 7 days of the notice have a
    source, and they are the rubric's; the others are this house's proposal to the district.
    """

    after: ApplicationState
    party: Party
    permission: Permission
    due_days: int | None = None
    guards: tuple[Guard, ...] = ()
    reason_required: bool = False


_S, _M, _G = ApplicationState, Move, Guard
_APPLY, _REVIEW, _DECIDE = Permission.CREATION_APPLY, Permission.CREATION_REVIEW, Permission.CREATION_DECIDE
_COMPLETE = (_G.ANSWERED, _G.EVIDENCED, _G.DECLARED)
_PROVEN = (_G.ASSESSED, _G.PASSED, _G.VISITED)
_CANCELLED = Step(_S.CANCELLED, Party.APPLICANT, _APPLY)
_WITHDRAWN = Step(_S.WITHDRAWN, Party.DISTRICT, _DECIDE, guards=(_G.RECHECK_RECORDED,), reason_required=True)

# Every move that there is; what is not here is refused.
MOVES: Mapping[tuple[ApplicationState, Move], Step] = {
    (_S.DRAFT, _M.BEGIN_SELF_ASSESSMENT): Step(_S.SELF_ASSESSMENT, Party.APPLICANT, _APPLY),
    (_S.SELF_ASSESSMENT, _M.SUBMIT): Step(_S.SUBMITTED, Party.APPLICANT, _APPLY, 5, _COMPLETE),
    (_S.SUBMITTED, _M.TAKE_UP): Step(_S.STREET_REVIEW, Party.STREET, _REVIEW, 10),
    (_S.STREET_REVIEW, _M.RETURN): Step(_S.RETURNED, Party.STREET, _REVIEW, 15, reason_required=True),
    (_S.RETURNED, _M.RESUBMIT): Step(_S.SUBMITTED, Party.APPLICANT, _APPLY, 5, _COMPLETE),
    (_S.STREET_REVIEW, _M.FORWARD): Step(_S.DISTRICT_REVIEW, Party.STREET, _REVIEW, 30, (_G.CONFIRMED,)),
    (_S.DISTRICT_REVIEW, _M.REJECT): Step(_S.REJECTED, Party.DISTRICT, _DECIDE, reason_required=True),
    (_S.DISTRICT_REVIEW, _M.PUBLISH_NOTICE): Step(_S.NOTICE, Party.DISTRICT, _DECIDE, guards=_PROVEN),
    (_S.NOTICE, _M.END_NOTICE): Step(_S.OBJECTIONS, Party.CLOCK, _DECIDE, 15, (_G.NOTICE_OVER,)),
    (_S.OBJECTIONS, _M.REJECT): Step(
        _S.REJECTED, Party.DISTRICT, _DECIDE, guards=(_G.OBJECTIONS_ANSWERED,), reason_required=True
    ),
    (_S.OBJECTIONS, _M.NAME): Step(
        _S.NAMED,
        Party.DISTRICT,
        _DECIDE,
        guards=(*_PROVEN, _G.NOTICE_OVER, _G.OBJECTIONS_ANSWERED, _G.NONE_UPHELD),
    ),
    (_S.NAMED, _M.BEGIN_RECHECK): Step(_S.RECHECK, Party.CLOCK, _DECIDE, 60),
    (_S.RECHECK, _M.RETAIN): Step(_S.NAMED, Party.DISTRICT, _DECIDE, guards=(_G.RECHECK_RECORDED,)),
    (_S.RECHECK, _M.GIVE_GRACE): Step(
        _S.GRACE, Party.DISTRICT, _DECIDE, guards=(_G.RECHECK_RECORDED,), reason_required=True
    ),
    (_S.GRACE, _M.REPORT_MENDED): Step(_S.RECHECK, Party.APPLICANT, _APPLY, 30),
    (_S.RECHECK, _M.WITHDRAW): _WITHDRAWN,
    # Who was given time keeps it to its end.
    (_S.GRACE, _M.WITHDRAW): Step(_S.WITHDRAWN, Party.DISTRICT, _DECIDE, guards=(_G.GRACE_OVER,), reason_required=True),
    # The applicant may step back until the district publishes the result.
    **{
        (state, _M.CANCEL): _CANCELLED
        for state in (
            _S.DRAFT,
            _S.SELF_ASSESSMENT,
            _S.SUBMITTED,
            _S.STREET_REVIEW,
            _S.RETURNED,
            _S.DISTRICT_REVIEW,
        )
    },
}

# Whose turn it is, in every state that waits for somebody.
TURN: Mapping[ApplicationState, Party] = {
    _S.DRAFT: Party.APPLICANT,
    _S.SELF_ASSESSMENT: Party.APPLICANT,
    _S.SUBMITTED: Party.STREET,
    _S.STREET_REVIEW: Party.STREET,
    _S.RETURNED: Party.APPLICANT,
    _S.DISTRICT_REVIEW: Party.DISTRICT,
    _S.NOTICE: Party.CLOCK,
    _S.OBJECTIONS: Party.DISTRICT,
    _S.NAMED: Party.CLOCK,
    _S.RECHECK: Party.DISTRICT,
    _S.GRACE: Party.APPLICANT,
}

# What is over, and frees the subject to apply again.
ENDED = (ApplicationState.WITHDRAWN, ApplicationState.REJECTED, ApplicationState.CANCELLED)

# A subject of these stands in the public register under its name.
NAMES_STANDING = (ApplicationState.NAMED, ApplicationState.RECHECK, ApplicationState.GRACE)


def steps_check() -> str:
    """The table as a CHECK over the columns `from_state`, `move` and `to_state`."""
    rows = sorted((before.value, move.value, step.after.value) for (before, move), step in MOVES.items())
    return f"(from_state, move, to_state) IN ({', '.join(repr(row) for row in rows)})"
