"""The commands that stand in README.md and docs/walks, run as they stand there on a service of `make run`."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pypdf import PdfReader
from walking import answers, served, shell_blocks, walk


@pytest.fixture(scope="module")
def served_folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of a running service."""
    with served(project, tmp_path_factory.mktemp("walk")) as folder:
        yield folder


def test_the_walk_in_the_readme_does_the_whole_main_job(project: Path, served_folder: Path) -> None:
    printed = walk(project, served_folder, "README.md")

    documents = answers(printed)
    wallet = next(each for each in documents if "balance_points" in each)
    batches = [each for each in documents if "batch" in each]
    progress = next(each for each in documents if "tasks" in each)
    savings = next(each for each in documents if "methods" in each)

    assert [batch["counts"] for batch in batches] == [{"awarded": 1}] * 3, batches
    # 5 for the walk of 1.8 km, 8 for the metro, 5 for the kitchen waste, 32 for 3.2 kg of cardboard
    assert wallet["balance_points"] == 5 + 8 + 5 + 32
    assert [lot["points"] for lot in wallet["lots"]] == [50]
    assert [task["done"] for task in progress["tasks"]] == [1800]
    assert {each["method_id"] for each in savings["methods"]} == {"published-conservative", "warm-v16"}


def test_the_chinese_readme_gives_the_same_commands(project: Path) -> None:
    english, chinese = ((project / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))

    def commands(text: str) -> list[str]:
        return [re.sub(r"#.*", "", block) for block in shell_blocks(text)]

    assert commands(english) == commands(chinese)
    assert len(commands(english)) >= 6


def test_the_list_of_what_to_try_runs_as_it_is_printed(served_folder: Path) -> None:
    listed = served_folder / "try-this.txt"
    done = subprocess.run(["bash", "-eu", str(listed)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = answers(done.stdout)
    assert any(each.get("outcome") == "awarded" for each in outcomes), done.stdout
    assert any("participation" in each for each in outcomes), done.stdout


def test_a_school_runs_a_challenge_from_draft_to_certificates(project: Path, served_folder: Path) -> None:
    printed = walk(project, served_folder, "docs/walks/school-challenge.md")
    lines, documents = printed.splitlines(), answers(printed)

    assert "campaign-promise-frozen" in lines, "a promise that was lowered"
    assert "already-checked-in" in lines, "a code that was used again"
    assert [line for line in lines if line in {"rotating", "staff"}] == ["rotating"] * 3 + ["staff"]
    progress = next(each for each in documents if "tasks" in each)
    assert [task["done"] for task in progress["tasks"]] == [1, 2, 1900 * 2]
    standings = next(each for each in documents if "computed_at" in each)
    assert [(row["rank"], row["total"], row["per_head"]) for row in standings["items"]] == [
        (1, 3800, 1900.0),
        (2, 1900, 950.0),
    ]
    # Four checked in (20), one passed the quiz (15), the two of the first class walked far enough (30).
    settlement = next(each for each in documents if "short_points" in each)
    assert (settlement["state"], settlement["payments"], settlement["points"]) == ("done", 7, 4 * 20 + 15 + 2 * 30)
    budget = next(each for each in documents if "held_points" in each)
    assert budget == {"allotted_points": 500, "paid_points": 155, "held_points": 345}
    verification = next(each for each in documents if "campaign_title" in each)
    assert verification["valid"]
    assert "an" not in verification["holder"], "the holder's name is masked"
    text = PdfReader(served_folder / "certificate.pdf").pages[0].extract_text()
    assert verification["code"] in text.replace(" ", "")
    manifest = next(each for each in documents if "sha256" in each)
    assert re.fullmatch("[0-9a-f]{64}", manifest["sha256"])


def test_a_survey_becomes_a_published_share_that_is_set_against_the_goal_and_reported(
    project: Path, served_folder: Path
) -> None:
    printed = walk(project, served_folder, "docs/walks/green-travel-share.md")
    lines = printed.splitlines()

    refusals = ["wave-refused", "reviewed-by-another", "wave-locked", "annual-report-own"]
    assert [line for line in lines if line in refusals] == refusals
    assert [line for line in lines if line in {"draft", "reviewed", "published"}] == [
        "draft",
        "reviewed",
        "published",
        "published",
    ]
    strict = next(line for line in lines if line.startswith("strict: "))
    plain, weighted, low, high, target = map(float, re.findall(r"0\.[0-9]+", strict))
    # A plain count is above the line; the estimate holds it, and the answer is honest about that.
    assert plain > high > target > weighted > low
    assert "cannot-be-told-yet, wants" in strict
    assert (lines.count("awarded"), sum(line.endswith("activities.csv: OK") for line in lines)) == (1, 1)
    statuses = dict(
        line.split() for line in lines if re.fullmatch("[a-z-]+ (met|not-met|no-data|followed|cannot-.*)", line)
    )
    assert statuses["green-travel-share"] == "cannot-be-told-yet"
    assert statuses["participants"] == "no-data", "no year has been frozen"
    assert "True" in lines, "the document"
    assert lines[-1] == "every figure is the same, to the last digit"


def test_drops_are_collected_in_three_ways_and_a_failed_check_takes_points_back(
    project: Path, served_folder: Path
) -> None:
    printed = walk(project, served_folder, "docs/walks/sorting.md")
    lines, documents = printed.splitlines(), answers(printed)

    assert lines[1:10] == [
        "awarded",
        "sequence-used",
        "recyclable awarded - ",
        "residual refused unsorted ",
        "resident-code-used",
        "您投放的其他垃圾经督导员检查为混投, 未计积分",
        "hazardous awarded - 3",
        "recyclable refused same-bag 0",
        "hazardous None duplicate 0",
    ]
    # 5 of the smart bin, 4 of the supervisor's bag, 3 of the resident's own word; then without the supervisor's bag.
    balances = [int(line) for line in lines if re.fullmatch("[0-9]+", line)]
    assert [balances[0], balances[-1]] == [5 + 4 + 3, 5 + 3]
    assert "kitchen refused outside-hours 0" in lines
    assert "forbidden" in lines, "a supervisor's look at the checks"
    assert "failed" in lines
    assert "分类投放: 抽查不合格, 积分已撤回, 可以申诉" in lines
    accuracy = next(each for each in documents if "correct_drops" in each)
    assert (accuracy["failed"], accuracy["share"]) == (1, 0.0)
    assert lines[-1] == "every point is accounted for"


def test_recyclables_are_handed_over_at_a_point_at_the_van_and_at_home(project: Path, served_folder: Path) -> None:
    printed = walk(project, served_folder, "docs/walks/recycling.md")
    lines = printed.splitlines()

    attributes = [
        line for line in lines if re.fullmatch("(fixed|mobile) (scheduled|appointment) (online|offline) .*", line)
    ]
    assert attributes == [
        "fixed scheduled offline accepted",
        "mobile scheduled online accepted",
        "mobile appointment online cancelled",
        "mobile appointment online on-the-way",
        "mobile appointment offline accepted",
        "mobile appointment offline disputed",
        "mobile appointment offline settled",
    ]
    refusals = [
        "resident-code-used",
        "weighing-slip-refused",
        "collection-full",
        "correction-missing",
        "decides-own-dispute",
    ]
    assert [line for line in lines if line in refusals] == refusals
    assert [line for line in lines if "/" in line and line.startswith(("settled ", "disputed "))] == [
        "settled awarded/-/54 awarded/-/18",
        "disputed held/weighing-disputed/0",
        "settled refused/weighing-corrected/0 awarded/-/27",
        "settled awarded/-/54",
    ]
    assert [line for line in lines if line in {"None", "示例小区1号楼101"}] == ["None", "示例小区1号楼101", "None"]
    assert {"both sides see the same slip", "decided", "2 live together", "every point is accounted for"} <= set(lines)


def test_a_community_goes_from_draft_to_plaque_and_off_it(project: Path, tmp_path: Path) -> None:
    # A service of its own: its clock is moved by more than a year.
    with served(project, tmp_path) as folder:
        printed = walk(project, folder, "docs/walks/green-community.md")
    lines, documents = printed.splitlines(), answers(printed)

    states = ["submitted", "returned", "submitted", "district-review", "notice", "named", "grace", "withdrawn"]
    seen = iter(lines)
    assert all(state in seen for state in states), printed
    assert "marks-sealed" in lines, "one assessor's look at the other's marks"
    assert lines.count("step-not-ready") == 2, "before the notice was over, and before the objection was answered"
    outcome = next(each for each in documents if "decision" in each)
    assert (outcome["assessors"], outcome["score"], outcome["passed"]) == (3, "16.00", True)
    objection = next(each for each in documents if "upheld" in each)
    assert objection["upheld"] is False
    register = next(each for each in documents if "history" in each)
    assert [each["move"] for each in register["history"]] == ["name", "begin-recheck", "give-grace", "withdraw"]
    assert register["standing"] == "withdrawn"
