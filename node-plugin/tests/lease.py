"""A container's process that takes leases: `F_RDLCK PATH` or `F_WRLCK PATH` a line; answers `held`, and keeps them to its end."""

import fcntl
import os
import signal
import sys

# Asked to give a lease up, it does not.
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = []
for line in sys.stdin:
    kind, path = line.rstrip("\n").split(" ", 1)
    held.append(os.open(path, os.O_RDONLY))
    fcntl.fcntl(held[-1], fcntl.F_SETLEASE, getattr(fcntl, kind))
    print("held", flush=True)
