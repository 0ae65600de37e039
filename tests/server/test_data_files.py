"""Data files of an operator: read up to a limit, and every fault names the file."""

from decimal import Decimal
from pathlib import Path

import pytest

from server.data_files import parse_toml, read_bytes, read_text, read_toml


class Fault(Exception):
    """What the reader of a file calls its faults."""


def test_a_file_is_read_up_to_its_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(b"12345678")

    assert read_bytes(path, bytes_max=8, fault=Fault) == b"12345678"
    with pytest.raises(Fault, match=r"^rules\.toml: larger than 7 bytes$"):
        read_bytes(path, bytes_max=7, fault=Fault)


def test_the_mark_that_spreadsheets_write_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_bytes("\ufeffcode,name".encode())

    assert read_text(path, bytes_max=100, fault=Fault) == "code,name"


def test_numbers_are_read_as_the_reader_wants_them(tmp_path: Path) -> None:
    path = tmp_path / "rates.toml"
    path.write_text("rate = 0.10")

    assert read_toml(path, bytes_max=100, fault=Fault) == {"rate": 0.1}
    assert read_toml(path, bytes_max=100, fault=Fault, parse_float=Decimal) == {"rate": Decimal("0.10")}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("碳普惠".encode("gb18030"), "codec can't decode"),
        (b"rate = ", "Invalid value"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_name_of_the_file(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "rates.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(Fault, match=rf"^rates\.toml: .*{told}"):
        read_toml(path, bytes_max=100, fault=Fault)


def test_a_text_nested_too_deeply_is_a_fault_and_no_crash() -> None:
    with pytest.raises(Fault, match=r"^proposal: "):
        parse_toml("proposal", "a = " + "[" * 5000 + "]" * 5000, fault=Fault)
