"""Ctrl-C as a request to stop at the next block.

Python raises `KeyboardInterrupt` between any two instructions of the main thread, also inside a lock of the thread pool
or in a finaliser, where it is printed and forgotten. A run that must end in a readable state cannot build on that.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """While the context lasts, the first Ctrl-C sets the event; a second one raises `KeyboardInterrupt` as usual.

    Outside the main thread, where Python delivers no signals, and where a program has a handler of its own, nothing is
    changed and the event stays unset.

    Yields:
        The event.
    """
    asked = threading.Event()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        asked.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, usual)
