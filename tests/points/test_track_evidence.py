"""The report on tracks as evidence says what the checks do; and what it promises of them holds."""

import csv
import gzip

from bench.track_evidence import CARS, FOLDER, PIECES, REPORT, WALKS, Tally, pieces, report, verdict, with_kept
from points.travel import checks
from points.travel.models import TrackMode

# The aims of the programme; what is reached stands in the report.
CARS_PASSING_MAX = 0.01
WALKS_REFUSED_MAX = 0.05


def test_the_report_is_what_the_checks_make_of_the_committed_pieces() -> None:
    kept = REPORT.read_text("utf-8")
    made = report(pieces(), checks.editions(FOLDER)[0])
    assert with_kept(made, kept).splitlines() == kept.splitlines(), "write it anew: python -m bench.track_evidence"


def test_hardly_a_car_passes_and_hardly_a_walk_is_refused() -> None:
    edition = checks.editions(FOLDER)[0]
    labelled = [piece for piece in pieces() if piece.source in ("goal", "aalto")]
    for mode in (TrackMode.WALK, TrackMode.BICYCLE):
        cars = Tally.of(verdict(piece.fixes, mode, edition) for piece in labelled if piece.label in CARS)
        assert cars.judged > 50
        assert cars.counts["clear"] <= CARS_PASSING_MAX * cars.judged
    walks = Tally.of(verdict(piece.fixes, TrackMode.WALK, edition) for piece in labelled if piece.label in WALKS)
    assert walks.judged > 100
    assert walks.refused <= WALKS_REFUSED_MAX * walks.judged
    assert walks.counts["clear"] >= 0.85 * walks.judged


def test_the_pieces_tell_no_place_and_no_time() -> None:
    firsts: dict[str, tuple[str, str, str]] = {}
    with gzip.open(PIECES, "rt", encoding="ascii", newline="") as lines:
        for row in csv.DictReader(lines):
            firsts.setdefault(row["piece"], (row["t_s"], row["east_m"].lstrip("-"), row["north_m"].lstrip("-")))
    assert set(firsts.values()) == {("0", "0", "0")}
