"""Data files that an operator may edit: read whole up to a limit, and every fault names the file."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_bytes(path: Path, *, bytes_max: int, fault: type[Exception]) -> bytes:
    """What a file holds. Raises `fault` where it cannot be read or is larger than `bytes_max`."""
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise fault(f"{path.name}: {error}") from error
    if len(content) > bytes_max:
        raise fault(f"{path.name}: larger than {bytes_max} bytes")
    return content


def read_text(path: Path, *, bytes_max: int, fault: type[Exception]) -> str:
    """A file's text, of UTF-8 with or without the mark that spreadsheets put before it. Raises `fault`."""
    try:
        return read_bytes(path, bytes_max=bytes_max, fault=fault).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fault(f"{path.name}: {error}") from error


def parse_toml(
    name: str, text: str, *, fault: type[Exception], parse_float: Callable[[str], Any] = float
) -> dict[str, Any]:
    """What a TOML text says; `name` is what faults are told under. Raises `fault`."""
    try:
        return tomllib.loads(text, parse_float=parse_float)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise fault(f"{name}: {error}") from error


def read_toml(
    path: Path, *, bytes_max: int, fault: type[Exception], parse_float: Callable[[str], Any] = float
) -> dict[str, Any]:
    """What a TOML file says. Raises `fault`."""
    return parse_toml(
        path.name, read_text(path, bytes_max=bytes_max, fault=fault), fault=fault, parse_float=parse_float
    )
