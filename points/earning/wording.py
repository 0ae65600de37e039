"""The rules in plain words, Chinese and English, for those who are paid by them. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

from points.earning.models import (
    TRAVEL,
    Activity,
    Behaviour,
    BoundKind,
    BoundLimit,
    EarningRule,
    Grade,
    GradeTerm,
    RuleVersion,
)


class Words(NamedTuple):
    """A text in both languages."""

    zh: str
    en: str


BEHAVIOUR_NAMES = {
    Behaviour.WALK: Words("步行", "walking"),
    Behaviour.BICYCLE: Words("自行车", "bicycle"),
    Behaviour.E_BIKE: Words("电动自行车", "e-bike"),
    Behaviour.BUS: Words("公交", "bus"),
    Behaviour.METRO: Words("地铁", "metro"),
    Behaviour.SORTING: Words("垃圾分类", "waste sorting"),
    Behaviour.RECYCLING: Words("再生资源回收", "recycling"),
}

MATERIAL_NAMES = {
    "corrugated": Words("瓦楞纸", "corrugated board"),
    "mixed_paper": Words("混合废纸", "mixed paper"),
    "office_paper": Words("办公用纸", "office paper"),
    "newspaper": Words("报纸", "newspaper"),
    "beverage_carton": Words("纸基复合包装", "beverage cartons"),
    "glass": Words("玻璃", "glass"),
    "textile": Words("织物", "textiles"),
    "courier_packaging": Words("快递包装", "courier packaging"),
    "courier_box": Words("循环快递箱", "returned courier boxes"),
    "pet": Words("PET 塑料", "PET"),
    "hdpe": Words("HDPE 塑料", "HDPE"),
    "pp": Words("PP 塑料", "PP"),
    "mixed_plastic": Words("混合塑料", "mixed plastics"),
    "foam_plastic": Words("泡沫塑料", "foam plastics"),
    "steel_can": Words("钢罐", "steel cans"),
    "mixed_metal": Words("混合金属", "mixed metals"),
    "aluminium_can": Words("铝罐", "aluminium cans"),
    "copper": Words("铜", "copper"),
    "mixed_electronics": Words("混合电子产品", "mixed electronics"),
    "portable_electronics": Words("便携电子产品", "portable electronics"),
    "large_appliance": Words("大家电", "large appliances"),
    "wood": Words("废旧木材", "wood"),
    "rubber": Words("废橡胶", "rubber"),
    "second_hand": Words("二手物品", "second-hand goods"),
}

MODE_NAMES = {
    "steps": Words("微信运动步数", "steps counted by the phone"),
    "kitchen": Words("厨余垃圾", "kitchen waste"),
    "recyclable": Words("可回收物", "recyclables"),
    "hazardous": Words("有害垃圾", "hazardous waste"),
    "residual": Words("其他垃圾", "residual waste"),
    **MATERIAL_NAMES,
}

GRADE_NAMES = {
    Grade.PARTNER_SIGNED: Words("合作方签名的记录", "records signed by a partner"),
    Grade.STAFF_CONFIRMED: Words("工作人员现场确认", "confirmed by staff on the spot"),
    Grade.SENSOR: Words("手机传感器", "sensors of the phone"),
    Grade.SELF_DECLARED: Words("本人申报", "declared by the resident"),
}

_BOUND_NAMES = {
    BoundKind.HOUSEHOLD: Words("同一家庭", "One household"),
    BoundKind.DEVICE: Words("同一投放或称重设备", "One bin, scale or scanner"),
    BoundKind.PHONE: Words("同一部手机", "One phone"),
    BoundKind.STAFF: Words("同一工作人员确认的记录", "What one member of staff confirms"),
    BoundKind.SITE: Words("同一站点", "One site"),
    BoundKind.DRIVE: Words("同一活动", "One campaign"),
}


def named(rule: EarningRule) -> Words:
    """What a rule is about: 再生资源回收·瓦楞纸, recycling: corrugated board."""
    behaviour = BEHAVIOUR_NAMES[rule.behaviour]
    if rule.mode == rule.behaviour.value:
        return behaviour
    mode = MODE_NAMES.get(rule.mode, Words(rule.mode, rule.mode))
    return Words(f"{behaviour.zh}·{mode.zh}", f"{behaviour.en}: {mode.en}")


def rule_words(rule: EarningRule, term: GradeTerm | None) -> Words:
    """All that a rule says, in a few sentences."""
    name, grade, rates = named(rule), GRADE_NAMES[rule.grade], _rates(rule)
    percent = 100 if term is None else term.percent
    zh = [f"{name.zh}（{grade.zh}）：{'，'.join(each.zh for each in rates) or '不计分'}"]
    en = [f"{_capital(name.en)} ({grade.en}): {', '.join(each.en for each in rates) or 'no points'}"]
    if percent != 100:
        zh.append(f"按证据等级计 {percent}%，向下取整")
        en.append(f"{percent} % of that is paid for this grade of evidence, rounded down")
    for limit in _limits(rule):
        zh.append(limit.zh)
        en.append(limit.en)
    zh.append(f"每人每日最多 {rule.day_cap_points} 分，每周最多 {rule.week_cap_points} 分（同组合计）")
    en.append(
        f"at most {rule.day_cap_points} points a day and {rule.week_cap_points} a week each, with what shares its cap"
    )
    return Words("；".join(zh) + "。", "; ".join(en) + ".")


def _rates(rule: EarningRule) -> list[Words]:
    rates = (
        (rule.points_per_act, "每次 {} 分", "{} points each time"),
        (rule.points_per_km, "每公里 {} 分", "{} points a kilometre"),
        (rule.points_per_kg, "每公斤 {} 分", "{} points a kilogram"),
        (rule.points_per_1000_steps, "每 1,000 步 {} 分", "{} points for 1,000 steps"),
    )
    return [Words(zh.format(points), en.format(points)) for points, zh, en in rates if points]


def _limits(rule: EarningRule) -> list[Words]:
    least, most = quantity(rule, rule.quantity_min), quantity(rule, rule.quantity_max)
    found = []
    if rule.quantity_min:
        found.append(Words(f"不足 {least.zh} 不计", f"less than {least.en} is not paid"))
    if rule.points_per_1000_steps:
        found.append(Words(f"每日超过 {most.zh} 的部分不计", f"beyond {most.en} a day nothing more is paid"))
    elif rule.behaviour in TRAVEL or rule.points_per_kg:
        found.append(Words(f"单次超过 {most.zh} 不计", f"more than {most.en} at once is not paid"))
    if rule.speed_max_kmh is not None:
        found.append(
            Words(f"平均时速超过 {rule.speed_max_kmh} 公里不计", f"faster than {rule.speed_max_kmh} km/h is not paid")
        )
    return found


def quantity(rule: EarningRule, number: int) -> Words:
    """A number of metres, grams or steps with its unit."""
    if rule.points_per_1000_steps:
        return Words(f"{number:,} 步", f"{number:,} steps")
    if rule.behaviour in TRAVEL:
        return Words(f"{_thousandth(number)} 公里", f"{_thousandth(number)} km")
    return Words(f"{_thousandth(number)} 公斤", f"{_thousandth(number)} kg")


def _thousandth(number: int) -> str:
    return f"{number // 1000:,}" + (f".{number % 1000:03}".rstrip("0") if number % 1000 else "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def version_words(version: RuleVersion, terms: Sequence[GradeTerm], bounds: Sequence[BoundLimit]) -> list[Words]:
    """What a version says about everything: closing day, the end of points, grades and their ceilings, bounds."""
    found = [
        Words(
            f"行为发生后 {version.late_days_max} 天内可补报。",
            f"Records may come up to {version.late_days_max} days late.",
        ),
        Words(
            f"积分有效至获得之年后第 {version.expiry_years} 年的 12 月 31 日。",
            f"Points end on 31 December, {version.expiry_years} year(s) after the year in which they were earned.",
        ),
    ]
    for term in terms:
        name = GRADE_NAMES[term.grade]
        ceiling = term.week_ceiling_points
        zh = f"{name.zh}：按 {term.percent}% 计分"
        en = f"{_capital(name.en)}: {term.percent} % of the points"
        if ceiling is not None:
            zh += f"，每人每周合计最多 {ceiling} 分"
            en += f", at most {ceiling} a week each in all"
        found.append(Words(zh + "。", en + "."))
    for bound in bounds:
        name, points = _BOUND_NAMES[bound.kind], bound.day_points
        found.append(Words(f"{name.zh}每日合计最多 {points} 分。", f"{name.en}: at most {points} points a day."))
    return found


def calculation(rule: EarningRule, percent: int, activity: Activity) -> Words | None:
    """How an activity's worth before caps comes of its rule; None where it was not priced by it."""
    parts: list[Words] = []
    total = rule.points_per_act
    if rule.points_per_act:
        parts.append(Words(f"{rule.points_per_act} 分", f"{rule.points_per_act}"))
    for number, rate, zh, en in (
        (activity.distance_m or 0, rule.points_per_km, "公里", "km"),
        (activity.weight_g or 0, rule.points_per_kg, "公斤", "kg"),
    ):
        if rate:
            total += number * rate // 1000
            amount = _thousandth(number)
            parts.append(Words(f"{amount} {zh} × {rate} 分", f"{amount} {en} × {rate}"))
    before = 0
    if rule.points_per_1000_steps and activity.steps is not None:
        counted = activity.steps_before or 0
        before = min(counted, rule.quantity_max) * rule.points_per_1000_steps // 1000
        steps = counted + activity.steps
        total += min(steps, rule.quantity_max) * rule.points_per_1000_steps // 1000
        parts.append(
            Words(
                f"当日 {steps:,} 步 × 每 1,000 步 {rule.points_per_1000_steps} 分",
                f"{steps:,} steps of the day × {rule.points_per_1000_steps} for 1,000",
            )
        )
    worth = total * percent // 100 - before * percent // 100
    if worth != activity.priced_points or not parts:
        return None
    zh, en = " + ".join(each.zh for each in parts), " + ".join(each.en for each in parts)
    if percent != 100:
        zh, en = f"（{zh}）× {percent}%", f"({en}) × {percent} %"
    if before:
        paid = before * percent // 100
        zh, en = f"{zh} − 此前已计 {paid} 分", f"{en} − {paid} counted before"
    return Words(f"{zh} = {worth} 分（向下取整）", f"{en} = {worth} points, rounded down")
