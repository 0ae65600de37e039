"""The goal line, the three answers, the sample that would tell, and the trend with its widening projection."""

import math
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from points_builders import generated
from scipy import stats
from share_release_builders import estimate

from points.share.estimate.exchange import READINGS, STRICT, WITH_E_BIKE
from points.share.releases import goal, trend
from points.share.releases.goal import (
    Answer,
    GoalDataError,
    Reason,
    Target,
    answer,
    answer_reading,
    persons_to_tell,
    read_goal,
    target_of,
)
from points.share.releases.trend import YearEstimate, t_quantile, trend_of
from server.settings import PLACES_DATA

LINE = read_goal(PLACES_DATA / "nankai")
HARD = Target(2025, 0.75, about=False, interpolated=False)
ABOUT = Target(2030, 0.80, about=True, interpolated=False)


def told(share: float, se: float, target: Target = HARD) -> tuple[Answer, Reason]:
    found = answer_reading(estimate(share, se), target, reading=STRICT, tolerance=0.01)
    return found.answer, found.reason


# The line


def test_the_line_of_nankai_is_75_percent_in_2025_and_about_80_in_2030() -> None:
    assert target_of(LINE, 2025) == Target(2025, 0.75, about=False, interpolated=False)
    assert target_of(LINE, 2030) == Target(2030, 0.80, about=True, interpolated=False)
    assert (LINE.about_tolerance, LINE.about_confidence) == (0.01, "R")
    assert (LINE.source, LINE.confidence) == ("南开政发〔2022〕10号", "V")


def test_between_the_years_of_the_plan_it_runs_straight_and_is_no_hard_line() -> None:
    target = target_of(LINE, 2027)
    assert target is not None
    assert (round(target.share, 9), target.about, target.interpolated) == (0.77, True, True)


def test_before_the_first_year_there_is_no_line_and_after_the_last_the_last_figure_stays() -> None:
    assert target_of(LINE, 2024) is None
    assert target_of(LINE, 2034) == Target(2034, 0.80, about=True, interpolated=False)


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("points = [{year = 2025, share = 75, about = false}]", "fraction of 1"),
        ("points = [{year = 2030, share = 0.8, about = true}]", "about_tolerance"),
        ("points = [{year = 2025, share = 0.7, about = false}, {year = 2025, share = 0.8, about = false}]", "another"),
        ('about_tolerance = {share = 0.2, source = "x"}', "about_tolerance.share"),
    ],
)
def test_a_line_that_could_mislead_is_refused(tmp_path: Path, written: str, fault: str) -> None:
    (tmp_path / "district.toml").write_text(f'code = "120104"\nname = "区"\n[green_travel_goal]\n{written}\n')
    with pytest.raises(GoalDataError, match=fault):
        read_goal(tmp_path)


# The answers


def test_a_hard_line_is_met_or_missed_by_the_whole_interval_alone() -> None:
    assert told(0.78, 0.01) == (Answer.MET, Reason.ABOVE)
    assert told(0.72, 0.01) == (Answer.NOT_MET, Reason.BELOW)
    # On either side, with the line inside the interval, the better estimate tells no more than the worse.
    assert told(0.76, 0.01) == told(0.74, 0.01) == (Answer.CANNOT_BE_TOLD_YET, Reason.HOLDS_LINE)


def test_the_line_itself_belongs_to_what_meets_it() -> None:
    on_the_line = msgspec.structs.replace(estimate(0.76, 0.01), low=0.75)
    assert answer_reading(on_the_line, HARD, reading=STRICT, tolerance=0.01).answer is Answer.MET


def test_about_80_percent_is_neither_passed_nor_failed_at_80_sharp() -> None:
    # 79.5 % with a hair's breadth of an interval: whether that is 左右 80 % nobody has said, so no sample tells.
    found = answer_reading(estimate(0.795, 0.0001), ABOUT, reading=STRICT, tolerance=0.01)
    assert (found.answer, found.reason, found.persons_to_tell) == (
        Answer.CANNOT_BE_TOLD_YET,
        Reason.WITHIN_ABOUT,
        None,
    )
    assert told(0.785, 0.001, ABOUT) == (Answer.NOT_MET, Reason.BELOW)
    assert told(0.803, 0.001, ABOUT) == (Answer.MET, Reason.ABOVE)
    # The same just below a hard line is not met: the tolerance is for 左右 alone.
    assert told(0.745, 0.0001) == (Answer.NOT_MET, Reason.BELOW)


def test_the_answer_holds_for_both_readings_or_it_cannot_be_told() -> None:
    met, missed, open_ = estimate(0.78), estimate(0.70), estimate(0.75)
    for strict, with_e_bike, expected in (
        (met, met, (Answer.MET, Reason.ABOVE)),
        (missed, missed, (Answer.NOT_MET, Reason.BELOW)),
        (missed, met, (Answer.CANNOT_BE_TOLD_YET, Reason.READINGS_DIFFER)),
        (open_, met, (Answer.CANNOT_BE_TOLD_YET, Reason.READINGS_DIFFER)),
        (open_, open_, (Answer.CANNOT_BE_TOLD_YET, Reason.HOLDS_LINE)),
    ):
        found = answer(LINE, 2025, {STRICT: strict, WITH_E_BIKE: with_e_bike}, weighted=True)
        assert (found.answer, found.reason) == expected
        assert [each.reading for each in found.readings] == list(READINGS)


def test_an_unweighted_estimate_is_never_set_against_the_goal() -> None:
    found = answer(LINE, 2025, {STRICT: estimate(0.9), WITH_E_BIKE: estimate(0.9)}, weighted=False)
    assert (found.answer, found.reason, found.target) == (Answer.CANNOT_BE_TOLD_YET, Reason.UNWEIGHTED, None)
    assert {each.answer for each in found.readings} == {Answer.CANNOT_BE_TOLD_YET}


def test_nothing_is_told_without_an_estimate_without_a_line_or_by_one_that_doubts_itself() -> None:
    both = {STRICT: estimate(0.9), WITH_E_BIKE: estimate(0.9)}
    assert answer(LINE, 2026, None, weighted=False).reason is Reason.NO_ESTIMATE
    assert answer(LINE, 2024, both, weighted=True).reason is Reason.NO_LINE
    doubted = answer(LINE, 2025, both, weighted=True, doubted={"selection-on-outcome"})
    assert (doubted.answer, doubted.reason) == (Answer.CANNOT_BE_TOLD_YET, Reason.DOUBTED)


# The sample that would tell


def test_the_sample_that_would_tell_tells_in_eighty_of_a_hundred_surveys() -> None:
    share, n, effect = 0.765, 1200, 1.8
    se = (share * (1 - share) * effect / n) ** 0.5
    needed = answer_reading(estimate(share, se, n=n), HARD, reading=STRICT, tolerance=0).persons_to_tell
    assert needed is not None
    rng = random.Random(4)
    se = (share * (1 - share) * effect / needed) ** 0.5
    told = sum(rng.gauss(share, se) - 1.96 * se >= 0.75 for _ in range(4000))
    assert 0.77 < told / 4000 < 0.84, (needed, told)


def test_the_closer_to_the_line_the_more_people_and_beyond_any_survey_none_is_named() -> None:
    needed = [persons_to_tell(1000, distance=distance, half_width=0.03) for distance in (0.03, 0.02, 0.01, 0.0005, 0.0)]
    assert needed == [2100, 4600, 18400, None, None]


@generated
@given(
    share=st.floats(0.01, 0.99),
    se=st.floats(0.0001, 0.2),
    about=st.booleans(),
    line=st.floats(0.3, 0.9),
)
def test_no_answer_is_both_ways_and_a_narrower_interval_never_turns_it_round(
    share: float, se: float, about: bool, line: float
) -> None:
    target = Target(2030, line, about, interpolated=False)
    wide = answer_reading(estimate(share, se), target, reading=STRICT, tolerance=0.01)
    narrow = answer_reading(estimate(share, se / 2), target, reading=STRICT, tolerance=0.01)
    assert {wide.answer, narrow.answer} != {Answer.MET, Answer.NOT_MET}
    if wide.answer is not Answer.CANNOT_BE_TOLD_YET:
        assert narrow.answer is wide.answer
    if wide.persons_to_tell is not None:
        assert 1800 < wide.persons_to_tell <= goal.PERSONS_TO_TELL_MAX


# The trend


def test_the_quantiles_of_t_are_those_of_scipy() -> None:
    for df in (*range(1, 12), 37):
        for probability in (0.6, 0.9, 0.975, 0.999):
            assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-9)


def test_fewer_than_three_years_show_no_trend() -> None:
    years = [YearEstimate(2023, 0.70, 0.01), YearEstimate(2024, 0.72, 0.01)]
    assert trend_of(years, until=2030) is None
    assert trend_of([*years, YearEstimate(2025, 0.73, 0.01)], until=2030) is not None


def test_a_projection_widens_with_every_year_and_stays_a_share() -> None:
    years = [YearEstimate(2021 + number, 0.70 + 0.015 * number, 0.012) for number in range(5)]
    found = trend_of(years, until=2030)
    assert found is not None
    assert [each.year for each in found.projected] == list(range(2021, 2031))
    ahead = [each for each in found.projected if each.year >= 2025]
    widths = [each.high - each.low for each in ahead]
    assert widths == sorted(widths)
    assert widths[-1] > 2 * widths[0]
    assert all(0 <= each.low < each.share < each.high <= 1 for each in found.projected)
    assert found.slope_points_per_year == pytest.approx(1.5, abs=0.1)


def test_years_that_scatter_beyond_their_errors_widen_it_further() -> None:
    smooth = [YearEstimate(2020 + number, 0.70 + 0.01 * number, 0.01) for number in range(6)]
    jumping = [YearEstimate(each.year, each.share + (0.04 if each.year % 2 else -0.04), each.se) for each in smooth]
    calm, rough = trend_of(smooth, until=2030), trend_of(jumping, until=2030)
    assert calm is not None
    assert rough is not None
    assert calm.tau == 0
    assert rough.tau > 0.1
    assert rough.projected[-1].high - rough.projected[-1].low > calm.projected[-1].high - calm.projected[-1].low


@pytest.mark.parametrize(("scatter", "ahead"), [(0.08, 5), (0.3, 1)])
def test_intervals_of_projections_hold_what_comes_in_at_least_93_of_100_worlds(scatter: float, ahead: int) -> None:
    """Years scatter around a straight line; five years ahead the line's own error rules, next year the scatter."""
    rng = random.Random(2030)
    held, worlds = 0, 500

    def true(year: int) -> float:
        return 1 / (1 + math.exp(-(0.8 + 0.05 * (year - 2021) + rng.gauss(0, scatter))))

    for _ in range(worlds):
        seen = [YearEstimate(year, rng.gauss(true(year), 0.012), 0.012) for year in range(2018, 2026)]
        found = trend_of(seen, until=2025 + ahead)
        assert found is not None
        last = found.projected[-1]
        held += last.low <= true(last.year) <= last.high
    assert held / worlds > 0.93


def test_a_year_without_error_or_at_the_end_of_the_scale_is_no_year_of_a_trend() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        trend_of([YearEstimate(2020 + number, 1.0, 0.01) for number in range(3)], until=2030)
    with pytest.raises(ValueError, match="each once"):
        trend_of([YearEstimate(2020, 0.5, 0.01)] * 3, until=2030)
    assert trend.YEARS_MIN == 3
