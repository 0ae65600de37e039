"""Computing a release again from the input that is kept with it, and saying honestly where the answer differs."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from points.share import estimate
from points.share.estimate.exchange import Result
from points.share.releases.releases import canonical


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of computing again.

    `same_bytes`: the whole answer is the same, versions of libraries too. `same_figures`: every figure is, to the last
    digit. `difference_max` is the largest difference between two figures, in their own unit; None where the answers
    have not even the same members.
    """

    input_is_intact: bool
    same_bytes: bool
    same_figures: bool
    difference_max: float | None
    result_sha256: str
    code_versions: tuple[str, str]  # then, now
    libraries: tuple[tuple[str, str, str], ...]  # name, then, now; of those that differ


@cache
def code_version() -> str:
    """The package's version, and the SHA-256 of the estimator's sources: the code that computed a release."""
    folder = Path(estimate.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    try:
        package = version("tanpuhui")
    except PackageNotFoundError:  # a checkout that is not installed
        package = "checkout"
    return f"{package} estimate-sha256:{digest.hexdigest()}"


def compare(
    then: Result, now: Result, *, kept_code_version: str, kept_input_sha256: bytes, content: bytes
) -> Reproduction:
    """Set an answer of now beside the one that was kept."""
    bytes_then, bytes_now = canonical(then), canonical(now)
    figures_then, figures_now = (list(_leaves(_without_libraries(each))) for each in (then, now))
    is_alike = [where for where, _ in figures_then] == [where for where, _ in figures_now]
    difference_max = None
    if is_alike:
        difference_max = max(
            (_difference(a, b) for (_, a), (_, b) in zip(figures_then, figures_now, strict=True)), default=0.0
        )
    names = sorted(then.libraries.keys() | now.libraries.keys())
    return Reproduction(
        input_is_intact=hashlib.sha256(content).digest() == kept_input_sha256,
        same_bytes=bytes_then == bytes_now,
        same_figures=figures_then == figures_now,
        difference_max=difference_max,
        result_sha256=hashlib.sha256(bytes_now).hexdigest(),
        code_versions=(kept_code_version, code_version()),
        libraries=tuple(
            (name, then.libraries.get(name, "-"), now.libraries.get(name, "-"))
            for name in names
            if then.libraries.get(name) != now.libraries.get(name)
        ),
    )


def _without_libraries(result: Result) -> Any:
    return msgspec.to_builtins(msgspec.structs.replace(result, libraries={}))


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document with its place; as deep as a Result is, which is no stranger's."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _leaves(value[key], f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _leaves(inner, f"{where}.{position}")
    else:
        yield where, value


def _difference(then: Any, now: Any) -> float:
    """How far two values are apart: of numbers their distance, of anything else 0 for the same and infinity if not."""
    if isinstance(then, int | float) and isinstance(now, int | float):
        return abs(float(then) - float(now))
    return 0.0 if then == now else float("inf")
