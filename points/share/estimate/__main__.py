"""One estimate in a process of its own: `python -m points.share.estimate`, JSON of Input in, JSON of Result out.

The libraries are large, and what they compute must not depend on what else the service holds. Where no estimate can be
made the answer is {"refused": reason, "detail": a sentence}.
"""

import json
import resource
import sys

import msgspec

from points.share.estimate.exchange import Input

CPU_SECONDS_MAX = 900
# On addresses, of which libraries claim more than they use: 500,000 persons take 1.2 GiB of memory and a minute.
MEMORY_BYTES_MAX = 8 * 1024**3
INPUT_BYTES_MAX = 512 * 1024**2


def answer(given: bytes) -> bytes:
    """The result's bytes, or those of a refusal."""
    if len(given) > INPUT_BYTES_MAX:
        return _refusal("too-large", f"more than {INPUT_BYTES_MAX} bytes")
    try:
        decoded = msgspec.json.decode(given, type=Input)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _refusal("input-invalid", str(error)[:300])
    # The libraries are loaded behind the limits and after the input, whose decoding needs none of them.
    from points.share.estimate.estimator import estimate  # noqa: PLC0415
    from points.share.estimate.preparation import Refused  # noqa: PLC0415

    try:
        return msgspec.json.encode(estimate(decoded))
    except Refused as refusal:
        return _refusal(refusal.reason, str(refusal))
    except MemoryError:
        return _refusal("memory", "more memory than an estimate may take")


def _refusal(reason: str, detail: str) -> bytes:
    return json.dumps({"refused": reason, "detail": detail}, ensure_ascii=False).encode()


def limit_self() -> None:
    """Hard limits on this process."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to a pipe and to no file


def main() -> None:
    """Standard input to standard output."""
    limit_self()
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
