"""Who may do what: roles, permissions, the one table between them, and the marks that every view carries."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar
from uuid import UUID

from flask_jwt_extended import get_current_user, verify_jwt_in_request

from server.errors import Forbidden, NotFound

TOKEN_ALGORITHM = "HS256"  # noqa: S105 -- a name, not a secret


class Role(enum.StrEnum):
    """What a person is to the programme."""

    RESIDENT = "resident"
    COMMUNITY_STAFF = "community-staff"
    SCHOOL_STAFF = "school-staff"
    ORGANISATION_STAFF = "organisation-staff"  # of an agency, mall or enterprise
    ASSESSOR = "assessor"  # an expert who scores applications and sees no more than those
    SUPERVISOR = "supervisor"  # 督导员, at a sorting site
    COLLECTOR = "collector"  # 回收员, who weighs what is recycled
    STREET = "street"
    DISTRICT = "district"
    OPERATOR = "operator"


# Their scope is one organisation; that of every other member of staff is a division.
ORGANISATION_ROLES = frozenset({Role.SCHOOL_STAFF, Role.ORGANISATION_STAFF})


class Permission(enum.StrEnum):
    """One thing that a view lets a person do."""

    SESSION_END = "session:end"
    NOTICE_OWN = "notice:own"
    PROFILE_OWN = "profile:own"
    WALLET_OWN = "wallet:own"
    ACTIVITY_RECORD = "activity:record"
    PARTNER_BIND = "partner:bind"
    REWARD_REDEEM = "reward:redeem"
    CAMPAIGN_JOIN = "campaign:join"
    CAMPAIGN_READ = "campaign:read"
    CAMPAIGN_RUN = "campaign:run"
    CAMPAIGN_BUDGET = "campaign:budget"
    CREATION_APPLY = "creation:apply"
    CREATION_READ = "creation:read"
    CREATION_REVIEW = "creation:review"
    CREATION_DECIDE = "creation:decide"
    CREATION_ASSESS = "creation:assess"
    ORGANISATION_RUN = "organisation:run"
    STAFF_MANAGE = "staff:manage"
    PARTNER_MANAGE = "partner:manage"
    REPORT_READ = "report:read"
    DIARY_OWN = "diary:own"
    DIARY_RECORD = "diary:record"
    SURVEY_MANAGE = "survey:manage"
    SHARE_READ = "share:read"
    SHARE_RELEASE = "share:release"
    STATISTICS_RELEASE = "statistics:release"
    ANNUAL_REPORT = "annual-report:manage"
    LEDGER_CORRECT = "ledger:correct"
    CODE_OWN = "code:own"
    HOUSEHOLD_OWN = "household:own"
    CODE_SCAN = "code:scan"
    CARD_ISSUE = "card:issue"
    RESIDENT_ASSIST = "resident:assist"
    DEVICE_MANAGE = "device:manage"
    SITE_MANAGE = "site:manage"
    SORTING_CONFIRM = "sorting:confirm"
    SPOT_CHECK = "spot-check:do"
    RECYCLING_ORDER = "recycling:order"
    RECYCLING_COLLECT = "recycling:collect"
    TRACK_OWN = "track:own"
    APPEAL_OWN = "appeal:own"
    REVIEW_READ = "review:read"
    REVIEW_DECIDE = "review:decide"
    AUDIT_RUN = "audit:run"
    RULES_PROPOSE = "rules:propose"
    RULES_APPROVE = "rules:approve"


# Whoever signs in may sign out, and reads what they are told.
_EVERYBODY = frozenset({Permission.SESSION_END, Permission.NOTICE_OWN})
_RUNNERS = _EVERYBODY | {
    Permission.CAMPAIGN_READ,
    Permission.CAMPAIGN_RUN,
    Permission.CREATION_READ,
    Permission.CREATION_ASSESS,
    Permission.REPORT_READ,
}
_APPLICANTS = _RUNNERS | {Permission.CREATION_APPLY}

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.RESIDENT: _EVERYBODY
    | frozenset(
        {
            Permission.PROFILE_OWN,
            Permission.WALLET_OWN,
            Permission.ACTIVITY_RECORD,
            Permission.PARTNER_BIND,
            Permission.REWARD_REDEEM,
            Permission.CAMPAIGN_JOIN,
            Permission.CAMPAIGN_READ,
            Permission.DIARY_OWN,
            Permission.CODE_OWN,
            Permission.HOUSEHOLD_OWN,
            Permission.RECYCLING_ORDER,
            Permission.TRACK_OWN,
            Permission.APPEAL_OWN,
            # For their own household (绿色家庭), and nobody else's.
            Permission.CREATION_APPLY,
            Permission.CREATION_READ,
        }
    ),
    Role.COMMUNITY_STAFF: _APPLICANTS
    | {
        Permission.DIARY_RECORD,
        Permission.CODE_SCAN,
        Permission.CARD_ISSUE,
        Permission.RESIDENT_ASSIST,
        Permission.SITE_MANAGE,
        Permission.SORTING_CONFIRM,
        Permission.SPOT_CHECK,
        Permission.REVIEW_READ,
        Permission.REVIEW_DECIDE,
    },
    Role.SCHOOL_STAFF: _APPLICANTS,
    Role.ORGANISATION_STAFF: _APPLICANTS,
    Role.ASSESSOR: _EVERYBODY | {Permission.CREATION_READ, Permission.CREATION_ASSESS},
    # They confirm what residents bring, and see nothing else of them.
    Role.SUPERVISOR: _EVERYBODY | {Permission.CODE_SCAN, Permission.SORTING_CONFIRM},
    Role.COLLECTOR: _EVERYBODY | {Permission.CODE_SCAN, Permission.RECYCLING_COLLECT},
    Role.STREET: _RUNNERS
    | {
        Permission.ORGANISATION_RUN,
        Permission.CREATION_REVIEW,
        Permission.DIARY_RECORD,
        Permission.SHARE_READ,
        Permission.CARD_ISSUE,
        # Where the one member of staff of a community lives with the resident.
        Permission.RESIDENT_ASSIST,
        Permission.SITE_MANAGE,
        Permission.SPOT_CHECK,
        Permission.REVIEW_READ,
        Permission.REVIEW_DECIDE,
    },
    Role.DISTRICT: _RUNNERS
    | {
        Permission.CAMPAIGN_BUDGET,
        Permission.CREATION_REVIEW,
        Permission.CREATION_DECIDE,
        Permission.ORGANISATION_RUN,
        Permission.STAFF_MANAGE,
        Permission.PARTNER_MANAGE,
        Permission.LEDGER_CORRECT,
        Permission.DIARY_RECORD,
        Permission.SURVEY_MANAGE,
        Permission.SHARE_READ,
        Permission.SHARE_RELEASE,
        Permission.STATISTICS_RELEASE,
        Permission.ANNUAL_REPORT,
        Permission.CARD_ISSUE,
        Permission.DEVICE_MANAGE,
        Permission.SITE_MANAGE,
        Permission.SPOT_CHECK,
        Permission.REVIEW_READ,
        Permission.REVIEW_DECIDE,
        Permission.AUDIT_RUN,
        Permission.RULES_PROPOSE,
        Permission.RULES_APPROVE,
    },
    # An operator keeps the service running and sees no resident's affairs.
    Role.OPERATOR: _EVERYBODY | {Permission.STAFF_MANAGE, Permission.PARTNER_MANAGE, Permission.DEVICE_MANAGE},
}


@dataclass(frozen=True, slots=True)
class Actor:
    """The person behind a request, as a value that rules can take.

    `division` is the prefix of official codes that a member of staff answers for, `organisation_id` the one
    organisation; a resident has neither. `session_id` names the sign-in that the request belongs to.
    """

    id: UUID
    role: Role
    session_id: UUID
    division: str | None = None
    organisation_id: UUID | None = None

    @property
    def is_resident(self) -> bool:
        """Whether this is a resident and not staff."""
        return self.role is Role.RESIDENT

    def may(self, permission: Permission) -> bool:
        """Whether the role carries the permission."""
        return permission in PERMISSIONS[self.role]

    def covers(self, division: str, organisation_id: UUID | None = None) -> bool:
        """Whether a place lies inside the scope.

        Staff of one organisation cover that organisation alone, never the community around it.
        """
        if self.organisation_id is not None:
            return organisation_id == self.organisation_id
        return self.division is not None and division.startswith(self.division)

    def require_cover(self, division: str, organisation_id: UUID | None = None) -> None:
        """Raise NotFound for a place outside the scope: what one may not see does not exist."""
        if not self.covers(division, organisation_id):
            raise NotFound


View = TypeVar("View", bound=Callable[..., Any])


def require(permission: Permission) -> Callable[[View], View]:
    """Let a view run only for a signed-in person whose role carries `permission`.

    Raises Unauthenticated, TokenExpired, TokenRevoked (through the token loaders) and Forbidden.
    """

    def mark(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            verify_jwt_in_request()
            if not actor().may(permission):
                raise Forbidden
            return view(*args, **kwargs)

        guarded.access = permission  # type: ignore[attr-defined]  # read by the test over the URL map
        return guarded  # type: ignore[return-value]

    return mark


def public(view: View) -> View:
    """Declare that a view is open to everyone, or checks a credential of its own kind (a signature, a password)."""
    view.access = "public"  # type: ignore[attr-defined]
    return view


def actor() -> Actor:
    """The person behind the current request; only after `@require`."""
    found = get_current_user()
    if not isinstance(found, Actor):
        raise TypeError("actor() was asked for in a view without @require")
    return found
