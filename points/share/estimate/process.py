"""Running an estimate from outside, in a process of its own with hard limits and nothing of the service in it."""

import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import structlog

from points.share.estimate.exchange import Result
from server.errors import DomainError

log = structlog.get_logger()

# The child's own limit on processor time ends it sooner; this one is on the clock.
SECONDS_MAX = 1200.0
ROOT = Path(__file__).resolve().parents[3]
# Isolated, so that neither the environment nor the current folder decides what is imported; only this tree is added.
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from points.share.estimate.__main__ import main; main()"
# One thread everywhere: sums in another order would differ in their last digits, and the result's hash with them.
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
}
# One at a time in a process: an estimate may take gigabytes.
_ONE = threading.BoundedSemaphore(1)

# What `EstimateFailed.reason` may be: of the input, and of the process.
REASONS = (
    "input-invalid",
    "too-large",
    "attribute-missing",
    "no-respondents",
    "no-trips",
    "too-few-clusters",
    "memory",
    "time",
    "ended",
)


class EstimateFailed(DomainError):
    """No estimate could be made of this input; `reason` is one of REASONS."""

    code, status, title_zh, title_en = (
        "estimate-failed",
        422,
        "无法由此数据作出估计",
        "No estimate can be made of this data",
    )

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(detail, reason=reason)
        self.reason = reason


class _Refusal(msgspec.Struct):
    refused: str
    detail: str = ""


def run(given: bytes) -> Result:
    """The estimate of an input's bytes (JSON of exchange.Input). Raises EstimateFailed."""
    return msgspec.json.decode(run_raw(given), type=Result)


def run_raw(given: bytes, *, seconds_max: float = SECONDS_MAX) -> bytes:
    """The result's own bytes, for its hash. Raises EstimateFailed."""
    command = [sys.executable, "-I", "-c", PROGRAM, str(ROOT)]
    with _ONE:
        try:
            done = subprocess.run(  # noqa: S603 -- our own program, with nothing of the input in its arguments
                command, input=given, capture_output=True, timeout=seconds_max, env=ENVIRONMENT, cwd="/", check=False
            )
        except subprocess.TimeoutExpired:
            log.warning("estimate_ended", because="time")
            raise EstimateFailed("time") from None
    if done.returncode or not done.stdout:
        # What it printed names places in libraries at most: persons enter it without names.
        said = done.stderr[-2000:].decode(errors="replace")
        log.warning("estimate_ended", because="exit", code=done.returncode, said=said)
        raise EstimateFailed("time" if done.returncode == -24 else "ended")
    try:
        refusal = msgspec.json.decode(done.stdout, type=_Refusal)
    except msgspec.ValidationError:
        return done.stdout
    raise EstimateFailed(refusal.refused, refusal.detail or None)
