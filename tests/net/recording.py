"""A node that keeps what it is shown: ``python -m tests.net.recording --home X --out FILE``.

It is the ordinary ``picket run``, except that every signed head of a log that stands in a frame
from a peer is appended to FILE the moment the frame is read, whatever the node then makes of it:
each as four bytes of length, and the note.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from node.cli import main as run_command
from protocol import session
from protocol.frames import Receipts, Runs
from protocol.log_frames import Cosign, Head, LogPart
from protocol.witness import parse_add_checkpoint


def notes_in(frame: object) -> Iterator[bytes]:
    """Yield the signed heads in a frame."""
    match frame:
        case Receipts() | Runs():
            yield frame.checkpoint
        case Cosign(request):
            yield parse_add_checkpoint(request).note
        case Head(_, note) if note:
            yield note
        case LogPart("checkpoint", body):
            yield body
        case _:
            pass


def read_notes(path: Path) -> Iterator[bytes]:
    """Yield the notes that a recording node kept in *path*."""
    data = path.read_bytes() if path.exists() else b""
    while data:
        length = int.from_bytes(data[:4], "big")
        yield data[4 : 4 + length]
        data = data[4 + length :]


def main() -> None:
    """Run a node that keeps what it is shown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    out = os.open(chosen.out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    names = vars(session)
    decode = names["decode_frame"]

    def decode_and_keep(data: bytes) -> object:
        frame = decode(data)
        for note in notes_in(frame):
            os.write(out, len(note).to_bytes(4, "big") + note)
        return frame

    names["decode_frame"] = decode_and_keep
    sys.argv = ["picket", "--home", str(chosen.home), "run"]
    run_command()


if __name__ == "__main__":
    main()
