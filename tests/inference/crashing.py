"""A small run that dies at a chosen point: in its own process by SIGKILL, or by an exception where it is called.

`python crashing.py RUN KERNEL POINT WHEN` begins the run, or goes on with it where there is one; as one of two
processes with two virtual devices each, if `joined` says so.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import joined
from kernels import KERNELS
from targets import Gaussian

from inference import programs, resume, sample, store

TARGET = Gaussian.example(3)
SETTINGS = {"num_chains": 2, "num_draws": 25, "rng_key": jax.random.key(5), "progress": False}
POINTS = ("half a block", "before the rename", "between draws and state", "half a state", "after the state")
"""Where a run can die while it commits a block."""
LONGEST_BLOCK = 5
"""So that there is something to die between."""


class Died(BaseException):
    """Instead of SIGKILL, for a run in the test's own process."""


def dying_write(point: str, when: int, die: Callable[[], None]) -> Callable[..., None]:
    """A `store.write_file` that dies the `when`-th time that a run comes to a point."""
    write, count = store.write_file, 0
    awaited = "block-" if point in ("half a block", "before the rename") else "state-"

    def write_or_die(file, content):
        nonlocal count
        count += file.name.startswith(awaited)
        if count != when or not file.name.startswith(awaited):
            write(file, content)
            return
        if point == "after the state":
            write(file, content)
        elif point != "between draws and state":
            with file.with_name(f"{file.name}.tmp").open("wb") as stream:
                content(stream)
                if point.startswith("half"):
                    stream.truncate(stream.tell() // 2)
        die()

    return write_or_die


def begin_or_resume(run: str | Path, kernel: str, **settings):
    """The run from its beginning, or from where it was left."""
    if Path(run).exists():
        return resume(run, TARGET, progress=False)
    return sample(TARGET, KERNELS[kernel], **SETTINGS | settings, run=run)


def main() -> None:
    """What the command line says."""
    run, kernel, point, when = sys.argv[1:]
    settings = {"num_chains": 4, "mesh": (4, 1)} if joined.IS_ONE_OF_TWO else {}
    programs._LONGEST_BLOCK = LONGEST_BLOCK
    store.write_file = dying_write(point, int(when), lambda: os.kill(os.getpid(), signal.SIGKILL))
    begin_or_resume(run, kernel, **settings)


if __name__ == "__main__":
    main()
