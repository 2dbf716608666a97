"""What a process that holds keys asks of the kernel: to write its memory to no file.

- RLIMIT_CORE 0 keeps the kernel from writing a core file.
- PR_SET_DUMPABLE 0 (prctl(2)) also keeps it from handing one to a program (core(5): that limit does
  not count there), and other processes of the same user from reading its memory.
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

from protocol.errors import ConfigError

_PR_SET_DUMPABLE: Final = 4


def refuse_dumps() -> None:
    """Let no core dump of this process be made, whatever the system's settings are.

    Raises:
        ConfigError: the kernel refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    fault = 0
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except OSError as error:
        fault = error.errno or -1
    if library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        fault = ctypes.get_errno()
    if fault:
        raise ConfigError(
            f"core dumps cannot be turned off: {os.strerror(fault)}",
            fix="start the node without a rule that forbids prctl or setrlimit",
        )
