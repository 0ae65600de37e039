"""A report's documents, drawn in a process of its own: JSON of `content.Content` in, MessagePack of files by name out.

The libraries that draw are large and take a second to load; the service's own processes never load them.
"""

import os
import resource
import sys
from pathlib import Path

import msgspec

from campaigns.annual_report.content import Content

CPU_SECONDS_MAX = 120
# On addresses: the libraries reserve far more of them than they use.
MEMORY_BYTES_MAX = 4 * 1024**3
INPUT_BYTES_MAX = 1024**2
FONT = Path(__file__).resolve().parents[2] / "server" / "documents" / "fonts" / "NotoSansCJKsc-subset.otf"

DOCUMENT = "annual-report.docx"


def drawn(given: bytes) -> dict[str, bytes]:
    """The document and the charts of a report: `annual-report.docx`, and an SVG for each chart."""
    content = msgspec.json.decode(given, type=Content)
    # Behind the limits.
    from campaigns.annual_report import plotting, word_document  # noqa: PLC0415

    plotting.prepare(FONT)
    pictures = {chart.name: plotting.png(chart) for chart in content.charts}
    charts = {f"{chart.name}.svg": plotting.svg(chart) for chart in content.charts}
    return {DOCUMENT: word_document.document(content, pictures), **charts}


def main() -> None:
    """Standard input to standard output."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What the libraries print themselves must not mix with the answer.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answer:
        answer.write(msgspec.msgpack.encode(drawn(sys.stdin.buffer.read(INPUT_BYTES_MAX))))


if __name__ == "__main__":
    main()
