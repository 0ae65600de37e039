"""What an annual report says, as plain values: the same for the web page, the document and its charts.

Frozen when the report is made. Another process draws the documents from these values and nothing else, and their hash
is the report's own. Texts are whole sentences in both languages; shares and rates are in per cent where `unit` says so.
"""

import enum
import hashlib

import msgspec


class Status(enum.StrEnum):
    """Where an indicator stands."""

    MET = "met"
    NOT_MET = "not-met"
    CANNOT_BE_TOLD_YET = "cannot-be-told-yet"
    NO_DATA = "no-data"
    FOLLOWED = "followed"  # the plan names no figure to judge it by


STATUS_ZH = {
    Status.MET: "已达到",
    Status.NOT_MET: "未达到",
    Status.CANNOT_BE_TOLD_YET: "尚不能判定",
    Status.NO_DATA: "暂无数据",
    Status.FOLLOWED: "跟踪指标",
}
STATUS_EN = {
    Status.MET: "met",
    Status.NOT_MET: "not met",
    Status.CANNOT_BE_TOLD_YET: "cannot be told yet",
    Status.NO_DATA: "no data",
    Status.FOLLOWED: "followed, no target",
}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan asks for by the end of a year; `about`: it says 左右, which is no hard line."""

    year: int
    value: float
    about: bool
    text_zh: str
    source: str
    confidence: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of an indicator: what it is of ('' for the whole), its value and where it comes from.

    `detail` says what the value is made of. `value` None with `withheld`: known, and hidden because few residents are
    behind it. `low` and `high` are a 95 % interval. `as_of` is the day, or the last day, that it is about.
    """

    label_zh: str
    label_en: str
    value: float | None
    low: float | None = None
    high: float | None = None
    withheld: bool = False
    detail_zh: str = ""
    detail_en: str = ""
    as_of: str
    source_zh: str
    source_en: str
    confidence: str


class Indicator(msgspec.Struct, frozen=True, kw_only=True):
    """One indicator of the plan: the target that applies, its figures, and whether it is met."""

    code: str
    title_zh: str
    title_en: str
    unit: str
    target: Target | None
    figures: list[Figure]
    status: Status
    note_zh: str
    note_en: str


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A bar or a point of a chart, with its interval where it has one."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    target: float | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a chart: values by position on the axis; `dashed` for a goal."""

    name_zh: str
    name_en: str
    xs: list[float]
    ys: list[float]
    lows: list[float] | None = None
    highs: list[float] | None = None
    dashed: bool = False


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One chart: bars, or lines over years. `name` names its file."""

    name: str
    kind: str  # `bars` or `lines`
    title_zh: str
    title_en: str
    unit: str
    bars: list[Bar] = []
    lines: list[Line] = []
    source_zh: str


class Theme(msgspec.Struct, frozen=True, kw_only=True):
    """A theme of the plan with its indicators and charts."""

    code: str
    title_zh: str
    title_en: str
    indicators: list[Indicator]
    charts: list[Chart]


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report. `through` is the last day that its figures are about."""

    format: int = 1
    district_code: str
    district_name: str
    year: int
    revision: int
    title_zh: str
    title_en: str
    document: str
    document_number: str
    document_on: str
    confidence: str
    made_on: str
    through: str
    correction: str  # why there is a further revision; '' for the first
    themes: list[Theme]
    notes_zh: list[str]
    notes_en: list[str]

    @property
    def indicators(self) -> list[Indicator]:
        """All indicators in their order."""
        return [indicator for theme in self.themes for indicator in theme.indicators]

    @property
    def charts(self) -> list[Chart]:
        """All charts in their order."""
        return [chart for theme in self.themes for chart in theme.charts]


def packed(content: Content) -> bytes:
    """The canonical JSON of a report: what its SHA-256 is of. A whole number where a fraction may stand is one: 2.0."""
    canonical = msgspec.convert(msgspec.to_builtins(content), Content)
    return msgspec.json.encode(canonical, order="deterministic")


def digest(content: Content) -> bytes:
    """The SHA-256 of a report's canonical JSON."""
    return hashlib.sha256(packed(content)).digest()
