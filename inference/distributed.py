"""What processes that sample together agree on, through JAX's own distributed runtime.

It starts before anything else does, and `import inference` starts JAX's devices by importing BlackJAX. So a script
begins with

    from manymodes.distributed import ends_together, start

    start("node1:1234", num_processes=2, process_id=0)  # or start() inside srun or mpirun

and samples inside ``with ends_together("my script"):``, which ends all processes where one fails. `manymodes sample
--num-processes` does both.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process writes and says what is written and said once."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Whether this process samples by itself."""
    return jax.process_count() == 1


def place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return jax.process_index(), jax.process_count()


def agree(length: int, *, stop: bool) -> tuple[int, bool]:
    """Waits until every process is here, and settles what comes next; alone, it returns what it was given.

    Args:
        length: steps of the next block, as this process would have it.
        stop: whether this process was asked to stop.

    Returns:
        The first process's length; whether any process was asked to stop.

    Raises:
        RuntimeError: a process has ended.

    Example:
        >>> agree(10, stop=False)
        (10, False)
    """
    if is_alone():
        return length, stop
    try:
        lengths, stops = multihost_utils.process_allgather(np.asarray([length, stop], np.int32)).T
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError("Another process of this job has ended; start all of them again to resume.") from error
    return int(lengths[0]), bool(stops.any())
