"""The words of a figure, a target and a day in an official Chinese document (GB/T 15835 numbers, GB/T 15834 marks)."""

from datetime import date

from campaigns.annual_report.content import STATUS_ZH, Content, Figure, Indicator, Status, Target

CHINESE_DIGITS = "〇一二三四五六七八九十"


def number(value: float) -> str:
    """A number with commas by thousands, without decimals that say nothing: 1,234.5 and 75."""
    text = f"{value:,.1f}" if abs(value) < 1e6 else f"{value:,.0f}"
    return text.removesuffix(".0")


def quantity(value: float, unit: str) -> str:
    """A number with its unit: 75%, 1,234千克."""
    return f"{number(value)}{unit}"


def day(text: str) -> str:
    """A day as the text of a document has it: 2026年3月1日; a year alone stays one."""
    if len(text) == 4:
        return f"{text}年"
    found = date.fromisoformat(text)
    return f"{found.year}年{found.month}月{found.day}日"


def target(found: Target | None, unit: str) -> str:
    """A target: its figure, with 左右 where the plan says so, and the year."""
    if found is None:
        return "未设目标值"
    about = "左右" if found.about else "以上"
    if not found.about and unit == "%" and found.value >= 100:
        about = ""
    return f"{quantity(found.value, unit)}{about}（{found.year}年）"


def figure(found: Figure, unit: str) -> str:
    """A figure with its interval; why there is none."""
    if found.value is None:
        return "依披露控制规则不公布" if found.withheld else "暂无数据"
    text = quantity(found.value, unit)
    if found.low is not None and found.high is not None:
        text += f"（95%置信区间{quantity(found.low, unit)}～{quantity(found.high, unit)}）"
    return text


def whole(found: Figure, unit: str) -> str:
    """A figure with what it is of before it, and what it is made of behind it."""
    text = figure(found, unit)
    if found.detail_zh:
        text += f"（{found.detail_zh}）"
    return f"{found.label_zh}：{text}" if found.label_zh else text


def short(found: Indicator) -> str:
    """An indicator's result in a cell of the overview: the first figure, the rest stands in the text."""
    if not found.figures:
        return "暂无数据"
    if found.figures[0].low is not None:
        return "；".join(quantity(each.value or 0, found.unit) for each in found.figures if each.value is not None)
    # Methods are never added up, so none of them stands for the whole.
    if all(each.label_zh and each.low is None for each in found.figures) and len(found.figures) > 1:
        return f"按{len(found.figures)}种方法分列，见正文"
    return figure(found.figures[0], found.unit)


def summary(content: Content) -> str:
    """How many indicators stand where, in one sentence."""
    counts = [(status, sum(indicator.status is status for indicator in content.indicators)) for status in Status]
    parts = "，".join(f"{STATUS_ZH[status]}{count}项" for status, count in counts if count)
    return f"本年度评估共列指标{len(content.indicators)}项，其中{parts}。"


def chinese_number(value: int) -> str:
    """一 to 九十九, for headings."""
    tens, ones = divmod(value, 10)
    if tens == 0:
        return CHINESE_DIGITS[ones]
    head = "" if tens == 1 else CHINESE_DIGITS[tens]
    return f"{head}十{CHINESE_DIGITS[ones] if ones else ''}"
