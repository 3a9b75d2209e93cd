"""Several processes that sample together: how they find each other, and how they end together.

JAX's own distributed runtime does the work. It must start before JAX looks for devices, and `import inference` makes it
look: so this module imports nothing of the kind, and `start` is called first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# A process that has not been heard of for so long is taken for dead; one that is only slower is waited for.
_HEARTBEAT_SECONDS, _SHUTDOWN_SECONDS = 10, 7 * 24 * 3600

# Who complains when a peer is gone.
_COLLECTIVES = ("gloo", "nccl", "coordination service")

_MISSING = "Several processes need --coordinator HOST:PORT, --num-processes N and --process-id I, got no {}"


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the processes that sample together. Without arguments JAX reads them from SLURM or Open MPI.

    Args:
        coordinator: Host and port of process 0, such as ``node1:1234``.
        num_processes: Number of processes.
        process_id: Which of them this is, from 0.

    Raises:
        ValueError: If only some of the three are given or they contradict each other; if there is no cluster to read
            them from; if JAX has started already.
    """
    import jax

    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [flag for flag, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(_MISSING.format(" and no ".join(missing)) + "; inside srun or mpirun leave all three out.")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator must be HOST:PORT of process 0, such as node1:1234, got {coordinator!r}.")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"--process-id must lie between 0 and {num_processes - 1}, got {process_id}.")
    _keep_standard_output()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            "Neither SLURM nor Open MPI says which processes belong together; start this command by srun or mpirun, or "
            "give --coordinator HOST:PORT, --num-processes N and --process-id I."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"The processes did not find each other: {error}") from error


@contextmanager
def ends_together(command: str) -> Iterator[None]:
    """Ends this process at once where what is inside fails, with one line, so that the others notice and end as well.

    At an ordinary exit JAX waits for all processes, and those would wait for this one. A process that dies without a
    word leaves the others an error of the collective that they were in, or JAX ends them when its heartbeat stays out.

    Args:
        command: What the line begins with.

    Yields:
        Nothing.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        print(f"{command}: {_sentence(error)}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(2)


def _keep_standard_output() -> None:
    """Leaves standard output to Python: Gloo writes its greetings there, in the middle of somebody's JSON."""
    if sys.stdout is sys.__stdout__:
        sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
        os.dup2(2, 1)


def _sentence(error: BaseException) -> str:
    words = " ".join(str(error).split())
    if any(name in f"{words} {error.__cause__}".lower() for name in _COLLECTIVES):
        return "another process of this job has ended; start all of them again with --resume to go on"
    return words if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {words}"
