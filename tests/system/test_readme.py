"""The walk through the main job stands in README.md; here it is run as it stands there, on a service of `make run`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

READY_SECONDS_MAX = 120
SERVED = "Serving at"


@pytest.fixture(scope="module")
def served_folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A service as `make run` starts it, on a data folder and a port of its own; the data folder."""
    folder = tmp_path_factory.mktemp("walk")
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TANPUHUI", "WECHAT", "DATABASE", "REDIS"))
    }
    environ |= {"TANPUHUI_ENV": "development", "TANPUHUI_DATA": str(folder), "PORT": "0"}
    log = folder / "serve.log"
    with log.open("wb") as output:
        service = subprocess.Popen([sys.executable, "-m", "server.serve"], cwd=project, env=environ, stderr=output)
    try:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while SERVED not in log.read_text("utf-8"):
            assert service.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.2)
        yield folder
    finally:
        service.send_signal(signal.SIGINT)
        service.wait(60)


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def walk(project: Path, folder: Path, name: str) -> str:
    """What the shell blocks of a README print, run one after the other in one shell that stops at the first failure."""
    blocks = shell_blocks((project / name).read_text("utf-8"))
    script = "set -euo pipefail\n" + "\n".join(blocks).replace("var/sample.env", str(folder / "sample.env"))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def answers(printed: str) -> list[Any]:
    """The JSON documents among the printed lines."""
    found = []
    for line in printed.splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict):
            found.append(document)
    return found


def test_the_walk_in_the_readme_does_the_whole_main_job(project: Path, served_folder: Path) -> None:
    printed = walk(project, served_folder, "README.md")

    documents = answers(printed)
    wallet = next(each for each in documents if "balance_points" in each)
    batches = [each for each in documents if "batch" in each]
    progress = next(each for each in documents if "ratio" in each)
    savings = next(each for each in documents if "methods" in each)

    assert [batch["counts"] for batch in batches] == [{"awarded": 1}] * 3, batches
    # 5 for the walk of 1.8 km, 8 for the metro, 5 for the kitchen waste, 32 for 3.2 kg of cardboard
    assert wallet["balance_points"] == 5 + 8 + 5 + 32
    assert [lot["points"] for lot in wallet["lots"]] == [50]
    assert progress["done"] == 1800
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
