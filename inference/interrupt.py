"""Ctrl-C as a request to stop at the next block.

Python raises `KeyboardInterrupt` between any two instructions of the main thread, also inside a lock of the thread pool
or in a finaliser, where it is printed and forgotten. A run that must end in a readable state cannot build on that.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_ACKNOWLEDGED = b"\nstopping when the running blocks have ended\n"


@dataclass
class StopRequest:
    """Whether somebody asked for the end. A plain flag: a lock taken inside a signal's handler can block itself."""

    asked: bool = False


@contextmanager
def interruptible() -> Iterator[StopRequest]:
    """While the context lasts, Ctrl-C sets the flag and says so; nothing is raised.

    Outside the main thread, where Python delivers no signals, and where a program has a handler of its own, nothing is
    changed and the flag stays unset.

    Yields:
        The flag.
    """
    request = StopRequest()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        if not request.asked:
            # No `print`: it takes locks that the interrupted code may hold.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _ACKNOWLEDGED)
        request.asked = True

    signal.signal(signal.SIGINT, ask)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, usual)
