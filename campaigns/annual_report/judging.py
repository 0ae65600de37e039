"""Whether an indicator's target is met: plain values in, a status and its reason out."""

from collections.abc import Sequence
from typing import NamedTuple

from campaigns.annual_report.content import Status, Target


class Verdict(NamedTuple):
    """A status, and why it is not simply one of met and not met."""

    status: Status
    note_zh: str = ""
    note_en: str = ""


ABOUT = Verdict(
    Status.CANNOT_BE_TOLD_YET,
    "方案表述为“左右”，不作达到或未达到的硬性判定。",
    "The plan says “about”: no hard line between met and not met.",
)
NO_DATA = Verdict(Status.NO_DATA, "平台没有该指标的数据。", "The platform has no figure of this.")
FOLLOWED = Verdict(Status.FOLLOWED)


def applicable_target(targets: Sequence[Target], year: int) -> Target | None:
    """The target that a year is held to: the last whose year has come, before that the first one."""
    due = [target for target in targets if target.year <= year]
    if due:
        return max(due, key=lambda target: target.year)
    return min(targets, key=lambda target: target.year, default=None)


def judge(value: float | None, target: Target | None, year: int) -> Verdict:
    """A figure, known for sure, against its target, both in the same unit and more being better.

    Before the target's year is over a figure below it decides nothing.
    """
    if value is None:
        return NO_DATA
    if target is None:
        return FOLLOWED
    if target.about:
        return ABOUT
    if value >= target.value:
        return Verdict(Status.MET)
    return not_met(target, year)


def not_met(target: Target, year: int) -> Verdict:
    """What falls short of a target, or is not due yet."""
    if year >= target.year:
        return Verdict(Status.NOT_MET)
    return Verdict(
        Status.CANNOT_BE_TOLD_YET,
        f"目标年份为{target.year}年，尚未到期。",
        f"The target is for {target.year} and not due yet.",
    )
