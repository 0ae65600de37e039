"""`python -m server.migrations.lint`: every migration's SQL under squawk's rules for changing a database in use."""

import io
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

MIGRATIONS = Path(__file__).parent
SETTINGS = MIGRATIONS.parents[1] / ".squawk.toml"
SECONDS_MAX = 120

# Not ours to change: the first migration brings the job library's tables as its authors ship them. Every later one is
# held to the rule.
FIRST_SCHEMA_EXCLUDES = ("prefer-identity",)


class LintError(Exception):
    """The linter itself cannot run; the message tells a person what to do."""


def main() -> int:
    """Lint every migration; the process's exit code."""
    try:
        failed = [revision for revision, sql, excludes in _rendered() if not _passes(revision, sql, excludes)]
    except LintError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if failed:
        sys.stderr.write(f"Migrations with findings: {', '.join(failed)}\n")
        return 1
    return 0


def _rendered() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each migration from first to last: its name, its SQL with its transaction, and the rules left out."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    revisions = list(ScriptDirectory.from_config(config).walk_revisions())
    for script in reversed(revisions):
        if not isinstance(script.down_revision, str | None):
            raise LintError(f"{script.revision} merges branches; migrations are one line")
        output = io.StringIO()
        config.output_buffer = output
        command.upgrade(config, f"{script.down_revision or 'base'}:{script.revision}", sql=True)
        yield script.revision, output.getvalue(), FIRST_SCHEMA_EXCLUDES if script.down_revision is None else ()


def _passes(revision: str, sql: str, excludes: tuple[str, ...]) -> bool:
    """Whether squawk finds nothing. Its findings go to standard output."""
    squawk = Path(sys.executable).with_name("squawk")
    if not squawk.exists():
        raise LintError(f"squawk is not beside {sys.executable}; install the dev requirements (`make lint` does)")
    with tempfile.TemporaryDirectory(prefix="tanpuhui-") as folder:
        path = Path(folder) / f"{revision}.sql"
        path.write_text(sql, "utf-8")
        # --exclude takes the place of the settings' own list, so the two are joined here.
        rules = (*tomllib.loads(SETTINGS.read_text("utf-8"))["excluded_rules"], *excludes)
        arguments = [str(squawk), "--config", str(SETTINGS), f"--exclude={','.join(rules)}", str(path)]
        done = subprocess.run(arguments, check=False, timeout=SECONDS_MAX)  # noqa: S603 -- our own arguments
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
