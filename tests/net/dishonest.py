"""A node of a dishonest operator: ``python -m tests.net.dishonest --home X``.

It is the ordinary ``picket run`` without what keeps an operator from going on with another history
of the log: it takes no notice of the heads of it that its peers show.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from node.cli import main as run_command
from node.core import Core


def main() -> None:
    """Run a node that believes its own database alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    chosen = parser.parse_args()
    Core.check_shown = lambda self, note: True  # type: ignore[method-assign]
    sys.argv = ["picket", "--home", str(chosen.home), "run"]
    run_command()


if __name__ == "__main__":
    main()
