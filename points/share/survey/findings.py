"""What is found in the tables of a wave: faults, each with its row and column, and warnings that stay with the wave."""

import enum
from collections import Counter
from dataclasses import dataclass
from typing import Any

FAULTS_SHOWN_MAX = 1_000
WARNINGS_MAX = 200
NOTE_LENGTH_MAX = 120


class TableName(enum.StrEnum):
    """The tables of a wave."""

    HOUSEHOLDS = "households"
    PERSONS = "persons"
    TRIPS = "trips"


# Code: what a person reads. A fault keeps the whole wave out; a warning does not.
FAULTS: dict[str, tuple[str, str]] = {
    "column-missing": ("数据表中没有此列", "The table has no such column"),
    "column-twice": ("数据表中此列出现多次", "The table has this column more than once"),
    "row-length": ("此行列数与表头不一致", "The row has not as many cells as the heading"),
    "rows-missing": ("数据表没有数据行", "The table has no rows"),
    "key-missing": ("缺少编号", "The key is missing"),
    "key-twice": ("编号重复", "The key stands here a second time"),
    "household-unknown": ("住户表中没有此住户", "The table of households has no such household"),
    "household-missing": ("缺少住户编号", "The household's key is missing"),
    "person-unknown": ("个人表中没有此人", "The table of persons has no such person"),
    "weight-invalid": ("权重不是正数", "The weight is no positive number"),
    "age-invalid": ("年龄应为0至120的整数", "The age is no whole number from 0 to 120"),
    "answer-unknown": ("应答状态取值未在对应文件中说明", "The mapping does not say whether this value means an answer"),
    "stratum-missing": ("缺少层", "The stratum is missing"),
    "stratum-unfit": (
        "层名称过长或含有不允许的字符",
        "The stratum's name is too long, or has characters that no category has",
    ),
    "cluster-missing": ("缺少抽样单元", "The cluster is missing"),
    "street-unknown": ("不是本区街道的代码", "It is no code of a street of this district"),
    "category-unknown": ("取值未在对应文件中说明", "The mapping does not know this value"),
    "category-unfit": ("取值过长或含有不允许的字符", "The value is too long, or has characters that no category has"),
    "categories-too-many": ("不同取值过多，不是分类变量", "So many different values are no categories"),
    "day-invalid": ("日期无法识别", "It is no date"),
    "day-outside-wave": ("日期不在本批次调查期内", "The day is not one of the wave's"),
    "mode-missing": ("缺少出行方式", "The trip has no mode"),
    "mode-unknown": ("出行方式未在对应文件中说明", "The mapping does not know this mode"),
    "legs-too-many": ("一次出行的段数过多", "The trip has too many legs"),
    "trips-too-many": ("一人的出行次数过多", "The person has too many trips"),
    "position-invalid": ("出行序号应为正整数", "The trip's number is no positive whole number"),
    "position-twice": ("同一人的出行序号重复", "The person has another trip of this number"),
    "trip-of-nobody-who-answered": ("未应答者不应有出行记录", "A trip of somebody who did not answer"),
    "distance-invalid": ("距离应为0至2000公里", "The distance is none from 0 to 2,000 km"),
    "start-invalid": ("出发时间无法识别", "The start is no time of a day"),
    "nobody-answered": ("没有任何人应答", "Nobody answered"),
    "trips-none": ("没有任何出行记录", "There is no trip at all"),
}

WARNINGS: dict[str, tuple[str, str]] = {
    "stratum-lone-cluster": (
        "层内只有一个应答的抽样单元，无法估计层内方差",
        "One answering cluster: its stratum has no variance",
    ),
    "age-unknown": ("年龄未知，按符合口径年龄处理", "The age is unknown; counted as of the definition's ages"),
    "younger-left-out": ("小于口径年龄，不参加计算", "Younger than the definition counts; left out of estimates"),
    "category-missing": ("分类变量缺失", "The category is unknown"),
    "weights-uneven": ("最大与最小基础权重相差100倍以上", "The largest base weight is over 100 times the smallest"),
    "many-stayed-home": ("当日未出行的应答者超过35%", "More than 35 % of the respondents made no trip"),
    "household-without-persons": ("住户表中的住户没有任何人", "The household has no person"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault or warning. `row` counts the heading as 1 and is None for what is of no single row."""

    table: TableName
    row: int | None
    column: str
    code: str
    count: int = 1
    note: str = ""

    @property
    def reason_zh(self) -> str:
        """What it means, in Chinese."""
        return (FAULTS.get(self.code) or WARNINGS[self.code])[0]

    @property
    def reason_en(self) -> str:
        """What it means, in English."""
        return (FAULTS.get(self.code) or WARNINGS[self.code])[1]

    def as_json(self) -> dict[str, Any]:
        """The finding as it is answered and kept."""
        return {
            "table": self.table.value,
            "row": self.row,
            "column": self.column,
            "code": self.code,
            "count": self.count,
            "note": self.note,
            "reason_zh": self.reason_zh,
            "reason_en": self.reason_en,
        }


class Findings:
    """Faults and warnings as they are found: the first FAULTS_SHOWN_MAX faults in full, the rest counted by code."""

    def __init__(self) -> None:
        self.faults: list[Finding] = []
        self.more: Counter[str] = Counter()
        self.warnings: list[Finding] = []

    def fault(self, table: TableName, row: int | None, column: str, code: str) -> None:
        """Note a fault."""
        if len(self.faults) < FAULTS_SHOWN_MAX:
            self.faults.append(Finding(table, row, column, code))
        else:
            self.more[code] += 1

    def warn(self, table: TableName, column: str, code: str, count: int, note: str = "") -> None:
        """Note a warning about `count` rows, if any."""
        if count and len(self.warnings) < WARNINGS_MAX:
            self.warnings.append(Finding(table, None, column, code, count, note[:NOTE_LENGTH_MAX]))
