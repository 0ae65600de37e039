"""Reading one workbook from outside, in a process of its own: `python -I workbook.py`, bytes in, a line and CSV out.

What strangers send is unpacked here, without the service's secrets, connections or memory and with hard limits on time
and memory, as `server.files.cleaning` does; nothing of the service is imported.

The line is JSON: {} or {"refused": a reason of `points.share.survey.tables`}. The CSV is the first sheet's.
"""

import csv
import datetime
import io
import json
import resource
import sys
import zipfile
from typing import Any, NoReturn

import python_calamine

CPU_SECONDS_MAX = 60
MEMORY_BYTES_MAX = 2 * 1024 * 1024 * 1024
# A table of a million trips is about 200 MB of XML; a bomb of 50 MB would be 50 GB.
UNPACKED_BYTES_MAX = 600 * 1024 * 1024
MEMBERS_MAX = 500
ROWS_MAX = 1_048_576
COLUMNS_MAX = 300
CELL_LENGTH_MAX = 2_000


class Refused(Exception):
    """The workbook cannot be taken in; the argument is the reason's name."""


def rewrite(content: bytes, written: io.StringIO) -> None:
    """Write the first sheet as CSV. Raises Refused; any other error means a damaged file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) > MEMBERS_MAX or sum(member.file_size for member in members) > UNPACKED_BYTES_MAX:
            raise Refused("too-large")
    workbook = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
    if not workbook.sheet_names:
        raise Refused("damaged")
    sheet = workbook.get_sheet_by_index(0)
    if sheet.total_height > ROWS_MAX or sheet.total_width > COLUMNS_MAX:
        raise Refused("too-large")
    writer = csv.writer(written)
    for row in sheet.iter_rows():
        writer.writerow([_text(cell) for cell in row])


def _text(cell: Any) -> str:
    """A cell as a CSV file would have it: whole numbers without a point, days and times as ISO 8601 has them."""
    if isinstance(cell, bool):
        return "1" if cell else "0"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, datetime.datetime):
        return cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(" ", "minutes")
    if isinstance(cell, datetime.timedelta):
        return str(int(cell.total_seconds() // 3600)) + f":{int(cell.total_seconds() % 3600 // 60):02}"
    if isinstance(cell, datetime.time):
        return cell.isoformat("minutes")
    text = str(cell)
    if len(text) > CELL_LENGTH_MAX:
        raise Refused("too-large")
    return text


def limit_self() -> None:
    """Hard limits on this process: the kernel ends it, whatever a parser is busy with."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to a pipe and to no file


def main() -> NoReturn:
    """Rewrite standard input to standard output."""
    limit_self()
    content = sys.stdin.buffer.read()
    written = io.StringIO(newline="")
    told = {}
    try:
        rewrite(content, written)
    except Refused as refusal:
        told = {"refused": str(refusal)}
    except MemoryError:
        told = {"refused": "too-large"}
    except BaseException:  # noqa: BLE001 -- what a parser of another language panics with is no Exception
        told = {"refused": "damaged"}
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n" + ("" if told else written.getvalue()).encode())
    sys.stdout.buffer.flush()
    sys.exit(0)


if __name__ == "__main__":
    main()
