"""The static checks are part of the one test command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKS = {
    "ruff check": [sys.executable, "-m", "ruff", "check", "."],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--check", "."],
    "mypy": [sys.executable, "-m", "mypy"],
    "import contracts": [
        sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()",
        "--no-cache",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_static_check(name: str) -> None:
    done = subprocess.run(CHECKS[name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_no_file_leaves_the_agreed_top_level() -> None:
    """Nothing else at top level, so that nobody has to guess where a thing is."""
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    allowed = {
        "pyproject.toml", "node", "protocol", "keys", "tests", "README.md", "docs", "bench",
        ".ci", "LICENSE", "SECURITY.md", "CHANGELOG.md", ".gitignore",
    }  # fmt: skip
    assert set(listed.stdout.split()) <= allowed
