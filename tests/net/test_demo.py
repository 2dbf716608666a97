"""``picket demo`` as a newcomer runs it: it holds, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.net.harness import ROOT, wait

_MINUTES = 240.0


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the demo in a session of its own with *folder* for temporary files."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PICKET_")}
    with (folder.parent / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "demo", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**environment, "TMPDIR": str(folder)},
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pid in processes(folder):
            os.kill(pid, signal.SIGKILL)


def processes(folder: Path) -> list[int]:
    """Return the nodes that run with a home in *folder*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if bytes(folder) in line:
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: with the demo's folders in it the path of a socket would be too long.
    with tempfile.TemporaryDirectory(prefix="demo-") as base:
        folder = Path(base) / "tmp"
        folder.mkdir()
        yield folder


def said(folder: Path) -> str:
    return (folder.parent / "said").read_text(errors="replace")


def assert_nothing_left(folder: Path) -> None:
    assert list(folder.iterdir()) == [], said(folder)
    assert processes(folder) == [], said(folder)


def test_the_demo_holds_and_leaves_neither_file_nor_process(folder: Path) -> None:
    with demo(folder, "--check") as process:
        assert process.wait(_MINUTES) == 0, said(folder)
        assert_nothing_left(folder)
    assert "FAIL" not in said(folder)
    assert "Everything held" in said(folder)
    assert "Traceback" not in said(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("running", [1, 3])
def test_a_demo_that_is_interrupted_leaves_neither_file_nor_process(
    folder: Path, number: signal.Signals, running: int
) -> None:
    with demo(folder, "--check") as process:
        wait(lambda: len(processes(folder)) >= running, f"{running} nodes of the demo")
        process.send_signal(number)
        assert process.wait(_MINUTES) != 0
        assert_nothing_left(folder)
    assert "Traceback" not in said(folder)


def test_ctrl_c_at_a_terminal_reaches_the_nodes_as_well_and_still_leaves_nothing(
    folder: Path,
) -> None:
    with demo(folder, "--check") as process:
        wait(lambda: len(processes(folder)) == 3, "the nodes of the demo")
        # A terminal signals the whole foreground group, the nodes included.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(_MINUTES) != 0
        assert_nothing_left(folder)
    assert "Traceback" not in said(folder)
