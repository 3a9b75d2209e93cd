"""How those who write into one run's folder tell each other to stop, and that they are done: by files in it.

Processes whose chains advance by themselves can be hours apart at the end, and a collective operation gives up after
half an hour. The folder is what they share in any case, and whoever can write into it can ask as well, by
`touch run/stop`.
"""

import time
from pathlib import Path

from .interrupt import StopRequest

_STOP = "stop"
_PAUSE_SECONDS = 0.2


def ask_to_stop(folder: Path) -> None:
    """Asks everybody to stop after their running blocks."""
    (folder / _STOP).touch()


def is_stop_asked(folder: Path) -> bool:
    """Whether somebody asked."""
    return (folder / _STOP).exists()


def wait_for_all(folder: Path, stop: StopRequest, process: int, num_processes: int) -> None:
    """Says that this process is done, and waits until all are; Ctrl-C in one that waits stops the others as well.

    Args:
        folder: the run's.
        stop: whether this process was asked to stop.
        process: its number.
        num_processes: of all.
    """
    _done(folder, process).touch()
    while not all(_done(folder, number).exists() for number in range(num_processes)):
        if stop.asked:
            ask_to_stop(folder)
        time.sleep(_PAUSE_SECONDS)


def clear(folder: Path) -> None:
    """Forgets what was asked and said: by the first process, when nobody waits for it."""
    for file in (folder / _STOP, *folder.glob("done-*")):
        file.unlink(missing_ok=True)


def _done(folder: Path, process: int) -> Path:
    return folder / f"done-{process:04d}"
