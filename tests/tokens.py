"""Tokens of SoftHSM for tests: one folder of them a process, one token a test."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

_MODULES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)
PIN: Final = "648219"


def missing() -> str:
    """What a test of tokens lacks here; nothing if it can run."""
    if shutil.which("softhsm2-util") is None or not any(map(os.path.exists, _MODULES)):
        return "SoftHSM is not installed: apt-get install softhsm2"
    if importlib.util.find_spec("pkcs11") is None:
        return "python-pkcs11 is not installed: pip install -e '.[test]'"
    return ""


def require() -> None:
    """Skip the test that calls this where SoftHSM is missing; in CI, fail it."""
    if not (lack := missing()):
        return
    if os.environ.get("NEEDS_SOFTHSM") == "1":
        pytest.fail(lack)
    pytest.skip(lack)


def module() -> str:
    return next(path for path in _MODULES if Path(path).exists())


@dataclass(frozen=True)
class SoftToken:
    """One token: its label, PIN, and the file that holds it."""

    label: str
    pin: str
    pin_file: Path
    store: Path

    @property
    def elsewhere(self) -> Path:
        """Where the token lies while it is pulled out."""
        return self.store.parents[1] / f"{self.label}.out"

    def pull_out(self) -> None:
        self.store.rename(self.elsewhere)

    def put_back(self) -> None:
        self.elsewhere.rename(self.store)

    def settings(self, **more: str) -> dict[str, str]:
        """The settings of a node whose identity key is in it."""
        return {
            "signer.kind": "pkcs11", "signer.module": module(), "signer.token": self.label,
            "signer.pin_file": str(self.pin_file),
            **{f"signer.{name}": value for name, value in more.items()},
        }  # fmt: skip


@cache
def _folder() -> Path:
    """The folder of all tokens of this process: the module reads its settings only once."""
    folder = Path(tempfile.mkdtemp(prefix="picket-tokens-"))
    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    return folder


@pytest.fixture(scope="session")
def token_folder() -> object:
    """Where the tokens of this process are; with the environment that names it to the module."""
    require()
    folder = _folder()
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    yield folder
    os.environ.pop("SOFTHSM2_CONF", None)
    shutil.rmtree(folder, ignore_errors=True)


def make_token(folder: Path) -> SoftToken:
    """Make a token with a label of its own."""
    label = f"t-{secrets.token_hex(6)}"
    before = set((folder / "tokens").iterdir())
    program = shutil.which("softhsm2-util") or "softhsm2-util"
    subprocess.run(
        [program, "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "91827364"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    (store,) = set((folder / "tokens").iterdir()) - before
    pin_file = folder / f"{label}.pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(f"{PIN}\n")
    return SoftToken(label, PIN, pin_file, store)


@pytest.fixture
def token(token_folder: Path) -> SoftToken:
    return make_token(token_folder)
