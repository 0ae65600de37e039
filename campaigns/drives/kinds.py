"""What the kinds of campaigns set unless staff choose otherwise. A kind has no behaviour of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

from campaigns.drives.models import (
    Audience,
    CampaignKind,
    RewardMode,
    TargetMeasure,
    TaskKind,
    TeamKind,
)
from campaigns.drives.terms import TaskTerms
from points.earning.models import Behaviour


@dataclass(frozen=True, slots=True)
class KindDefaults:
    """What a campaign of a kind begins with. An audience of members holds only where there is an organisation."""

    kind: CampaignKind
    name_zh: str
    name_en: str
    tasks: tuple[TaskTerms, ...]
    audience: Audience = Audience.HOME
    reward_mode: RewardMode = RewardMode.AT_SETTLEMENT
    team_kind: TeamKind | None = None


_GREEN_TRIPS = TaskTerms(
    kind=TaskKind.BEHAVIOUR,
    title="绿色出行10次",
    behaviours=(Behaviour.WALK, Behaviour.BICYCLE, Behaviour.BUS, Behaviour.METRO),
    measure=TargetMeasure.ACTIVITIES,
    target=10,
)

_CHECK_IN = TaskTerms(kind=TaskKind.CHECK_IN, title="到场签到", target=1)

KINDS: Mapping[CampaignKind, KindDefaults] = {
    defaults.kind: defaults
    for defaults in (
        KindDefaults(CampaignKind.CHALLENGE, "低碳挑战", "Challenge", (_GREEN_TRIPS,)),
        KindDefaults(CampaignKind.THEME_DAY, "主题日活动", "Theme day", (_CHECK_IN,)),
        KindDefaults(
            CampaignKind.VOLUNTEER,
            "低碳公益活动",
            "Volunteer action",
            (TaskTerms(kind=TaskKind.VOLUNTEER, title="志愿服务2小时", target=120),),
        ),
        KindDefaults(CampaignKind.TREE_PLANTING, "义务植树", "Tree planting", (_CHECK_IN,)),
        KindDefaults(
            CampaignKind.CLEAN_PLATE,
            "光盘行动",
            "Clean plate",
            (TaskTerms(kind=TaskKind.EVIDENCE, title="上传光盘照片5张", target=5),),
        ),
        KindDefaults(
            CampaignKind.GREEN_SCHOOL,
            "绿色学校活动",
            "Green school",
            (_GREEN_TRIPS,),
            audience=Audience.MEMBERS,
            team_kind=TeamKind.CLASS,
        ),
        KindDefaults(
            CampaignKind.SECOND_HAND,
            "旧物与回收日",
            "Second-hand and recycling day",
            (
                _CHECK_IN,
                TaskTerms(
                    kind=TaskKind.BEHAVIOUR,
                    title="交投可回收物1千克",
                    behaviours=(Behaviour.RECYCLING,),
                    measure=TargetMeasure.WEIGHT_G,
                    target=1000,
                ),
            ),
        ),
    )
}

# Fewest members before a team is marked as small, and most that it takes.
TEAM_SIZES: Mapping[TeamKind, tuple[int, int]] = {
    TeamKind.CLASS: (10, 60),
    TeamKind.BUILDING: (10, 300),
    TeamKind.HOUSEHOLD: (2, 10),
    TeamKind.WORKPLACE: (5, 300),
}
