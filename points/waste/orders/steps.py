"""The one table of moves of a recycling order: from where to where, and by whom.

The database holds the same table as a CHECK on the recorded moves, built from this one, and a trigger lets the state
change only together with a recorded move.
"""

import enum
from collections.abc import Mapping


class OrderState(enum.StrEnum):
    """Where an order stands."""

    REQUESTED = "requested"  # 已下单
    ACCEPTED = "accepted"  # 已接单
    ON_THE_WAY = "on-the-way"  # 上门途中
    WEIGHED = "weighed"  # 已称重, 待居民确认
    CONFIRMED = "confirmed"  # 已确认
    DISPUTED = "disputed"  # 有争议, 待复核
    SETTLED = "settled"  # 已结算
    CANCELLED = "cancelled"  # 已取消
    EXPIRED = "expired"  # 无人接单
    RESIDENT_MISSED = "resident-missed"  # 居民爽约
    COLLECTOR_MISSED = "collector-missed"  # 回收员爽约


class OrderMove(enum.StrEnum):
    """What is done to an order."""

    ACCEPT = "accept"
    HAND_BACK = "hand-back"
    DEPART = "depart"
    WEIGH = "weigh"
    CORRECT = "correct"
    CONFIRM = "confirm"
    DISPUTE = "dispute"
    SETTLE = "settle"
    DECIDE = "decide"
    CANCEL = "cancel"
    EXPIRE = "expire"
    MISS = "miss"


class Party(enum.StrEnum):
    """Who moves an order."""

    RESIDENT = "resident"
    COLLECTOR = "collector"
    REVIEWER = "reviewer"
    CLOCK = "clock"


_S, _M, _P = OrderState, OrderMove, Party

# Every move that there is; what is not here is refused. A correction leaves the order weighed, under a new slip.
MOVES: Mapping[tuple[OrderState, OrderMove, Party], OrderState] = {
    (_S.REQUESTED, _M.ACCEPT, _P.COLLECTOR): _S.ACCEPTED,
    (_S.ACCEPTED, _M.HAND_BACK, _P.COLLECTOR): _S.REQUESTED,
    (_S.ACCEPTED, _M.DEPART, _P.COLLECTOR): _S.ON_THE_WAY,
    (_S.ACCEPTED, _M.WEIGH, _P.COLLECTOR): _S.WEIGHED,
    (_S.ON_THE_WAY, _M.WEIGH, _P.COLLECTOR): _S.WEIGHED,
    (_S.WEIGHED, _M.CORRECT, _P.COLLECTOR): _S.WEIGHED,
    (_S.WEIGHED, _M.CONFIRM, _P.RESIDENT): _S.CONFIRMED,
    (_S.WEIGHED, _M.CONFIRM, _P.CLOCK): _S.CONFIRMED,
    (_S.WEIGHED, _M.DISPUTE, _P.RESIDENT): _S.DISPUTED,
    (_S.CONFIRMED, _M.SETTLE, _P.CLOCK): _S.SETTLED,
    (_S.DISPUTED, _M.DECIDE, _P.REVIEWER): _S.SETTLED,
    (_S.REQUESTED, _M.CANCEL, _P.RESIDENT): _S.CANCELLED,
    (_S.ACCEPTED, _M.CANCEL, _P.RESIDENT): _S.CANCELLED,
    (_S.ACCEPTED, _M.CANCEL, _P.COLLECTOR): _S.CANCELLED,
    (_S.ON_THE_WAY, _M.CANCEL, _P.COLLECTOR): _S.CANCELLED,
    (_S.REQUESTED, _M.EXPIRE, _P.CLOCK): _S.EXPIRED,
    # Each side reports the other; the clock finds a collector who neither came nor said why.
    (_S.ACCEPTED, _M.MISS, _P.COLLECTOR): _S.RESIDENT_MISSED,
    (_S.ON_THE_WAY, _M.MISS, _P.COLLECTOR): _S.RESIDENT_MISSED,
    (_S.ACCEPTED, _M.MISS, _P.RESIDENT): _S.COLLECTOR_MISSED,
    (_S.ON_THE_WAY, _M.MISS, _P.RESIDENT): _S.COLLECTOR_MISSED,
    (_S.ACCEPTED, _M.MISS, _P.CLOCK): _S.COLLECTOR_MISSED,
    (_S.ON_THE_WAY, _M.MISS, _P.CLOCK): _S.COLLECTOR_MISSED,
}

ENDED = (
    OrderState.SETTLED,
    OrderState.CANCELLED,
    OrderState.EXPIRED,
    OrderState.RESIDENT_MISSED,
    OrderState.COLLECTOR_MISSED,
)

# While an order stands so, whoever accepted it may know where to go.
AT_THE_DOOR = (OrderState.ACCEPTED, OrderState.ON_THE_WAY)

# Nothing has been handed over yet.
OPEN = (OrderState.REQUESTED, *AT_THE_DOOR)


def moves_check() -> str:
    """The table as a CHECK over the columns `from_state`, `move`, `party` and `to_state`."""
    rows = sorted((before.value, move.value, by.value, after.value) for (before, move, by), after in MOVES.items())
    return f"(from_state, move, party, to_state) IN ({', '.join(repr(row) for row in rows)})"
