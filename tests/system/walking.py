"""Walks: the commands that stand in a document for people, run as they stand there on a service of `make run`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_SECONDS_MAX = 120
WALK_SECONDS_MAX = 240
SERVED = "Serving at"


@contextmanager
def served(project: Path, folder: Path) -> Iterator[Path]:
    """A service as `make run` starts it, on a data folder and a port of its own; the data folder."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TANPUHUI", "WECHAT", "DATABASE", "REDIS", "FILES"))
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


# What `make flask COMMAND='…'` does, with the interpreter of the tests instead of one that make would install first.
_MAKE = """
make() {
  local word
  for word in "$@"; do case $word in
    COMMAND=*) (set -a; . "$SERVICE/service.env"; exec "$PYTHON" -m flask --app wsgi ${word#COMMAND=}) ;;
  esac; done
}
"""


def walk(project: Path, folder: Path, name: str) -> str:
    """What the shell blocks of a document print, run in one shell that stops at the first failure."""
    blocks = shell_blocks((project / name).read_text("utf-8"))
    script = "set -euo pipefail\n" + _MAKE + "\n".join(blocks).replace("var/sample.env", str(folder / "sample.env"))
    environ = {**os.environ, "PYTHON": sys.executable, "SERVICE": str(folder), "TMPDIR": str(folder)}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=project,
        env=environ,
        capture_output=True,
        text=True,
        timeout=WALK_SECONDS_MAX,
        check=False,
    )
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
