"""A small survey as an institute hands it in: three tables and a mapping."""

from collections.abc import Sequence

from points.share.survey import definition
from points.share.survey.findings import TableName
from points.share.survey.importing import Known, WaveUpload
from points.share.survey.mapping import read_mapping
from points.share.survey.tables import TableFile

STREETS = frozenset({"120104001", "120104002"})
DEFINITION = definition.value_of(definition.read_definitions()[0])

MAPPING = """
[wave]
code = "household-2025-1"
name = "2025年居民出行调查"
first_on = 2025-05-12
last_on = 2025-05-25
definition = "green-travel-2020"
frame = "南开区户籍与常住登记，按街道分层抽取社区"
source = "区交通局委托调查"
confidence = "V2"

[households]
key = "户号"
street = { column = "街道", recode = { "长虹街道" = "120104001", "鼓楼街道" = "120104002" } }
[households.attributes.household_cars]
column = "小汽车"
bands = [0, 1, 2]

[persons]
key = "人员"
household = "户号"
weight = "权重"
stratum = "层"
cluster = "社区"
age = "年龄"
day = "日期"
answered = { column = "状态", yes = ["1"], no = ["2"] }
[persons.attributes.sex]
column = "性别"
recode = { "1" = "male", "2" = "female" }
unknown = ["9"]
[persons.attributes.age_band]
column = "年龄"
bands = [0, 6, 18, 60]

[trips]
person = "人员"
position = "序号"
started = "出发"
distance = { column = "公里", metres_per_unit = 1000 }
[trips.modes]
columns = ["方式"]
separator = ">"
recode = { "1" = "walk", "2" = "bicycle", "3" = "e-bike", "4" = "bus", "5" = "urban-rail", "8" = "car-driver" }
"""

HOUSEHOLDS = """户号,街道,小汽车,地址
H1,长虹街道,0,某路1号
H2,鼓楼街道,3,某路2号
"""

PERSONS = """人员,姓名,户号,权重,层,社区,年龄,日期,状态,性别
120104199001011234,张三,H1,100.5,S1,C1,36,2025-05-12,1,1
120104199201011235,李四,H1,100.5,S1,C1,33,2025/5/13,1,2
120104201501011236,王五,H2,200,S1,C2,10,20250514,1,9
120104202101011237,赵六,H2,200,S1,C2,4,,1,1
120104195501011238,钱七,H2,200,S1,C2,70,,2,2
"""

TRIPS = """人员,序号,方式,公里,出发
120104199001011234,2,8.0,12.34,18:05
120104199001011234,1,1>5>1,7,7:30
120104201501011236,1,3,,0715
120104202101011237,1,1,0.4,
"""


def upload_of(
    mapping: str = MAPPING,
    households: str | bytes | None = HOUSEHOLDS,
    persons: str | bytes = PERSONS,
    trips: str | bytes = TRIPS,
) -> WaveUpload:
    """What is handed in."""
    tables = {TableName.PERSONS: file("persons.csv", persons), TableName.TRIPS: file("trips.csv", trips)}
    if households is not None:
        tables[TableName.HOUSEHOLDS] = file("households.csv", households)
    return WaveUpload(mapping=file("mapping.toml", mapping), tables=tables)


def file(name: str, content: str | bytes) -> TableFile:
    return TableFile(name, content.encode() if isinstance(content, str) else content)


def known_of(upload: WaveUpload) -> Known:
    """What the database would say."""
    return Known(read_mapping(upload.mapping.content), DEFINITION, STREETS)


def without(table: str, column: str) -> str:
    """A table with the heading of one column gone."""
    heading, rest = table.split("\n", 1)
    return ",".join("" if each == column else each for each in heading.split(",")) + "\n" + rest


def lines(*rows: Sequence[object]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)
