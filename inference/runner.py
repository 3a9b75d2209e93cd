r"""The host loop: blocks of steps, group after group, on as many workers as the executor has.

The group that is furthest behind goes next, so that all chains are about equally far whenever the run is stopped, and
no chain waits for another at the end of a block. Only a block's length comes from a timing, and it changes no draw.
"""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array

from .draws import Block
from .executors import Executor
from .interrupt import StopRequest
from .programs import Programs
from .progress import Report
from .starts import Positions, check_start

Write = Callable[[int, int, Block, Any], None]

# A first block this long times a step; the ones after it aim at so many seconds, but grow by at most this factor: the
# first trees of NUTS can be far smaller than the later ones.
_FIRST_LENGTH, _SECONDS_A_BLOCK, _FASTEST_GROWTH = 10, 1.5, 8


@dataclass(frozen=True)
class Plan:
    """What every group does.

    Attributes:
        programs: what is executed.
        posterior: placed where the programs want it.
        probes: likewise.
        num_warmup: steps that are not kept.
        num_steps: all steps of a chain.
        write: commits a block; None where nothing is written.
    """

    programs: Programs
    posterior: Any
    probes: Any
    num_warmup: int
    num_steps: int
    write: Write | None


@dataclass
class Group:
    """Chains that advance together: their keys, their State, and what they have made so far.

    Attributes:
        number: which group it is.
        rng_keys: the chains' keys.
        state: after the last block.
        done: steps made.
        length: of the next block, before it is cut at the end of warm-up and of the run.
        num_blocks: blocks made.
        kept: blocks of kept draws.
        busy: seconds of computing in warm-up and in sampling.
    """

    number: int
    rng_keys: Any
    state: Any
    done: int = 0
    length: int = _FIRST_LENGTH
    num_blocks: int = 0
    kept: list[Block] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=lambda: {"warmup": 0.0, "sampling": 0.0})

    def run_block(self, plan: Plan) -> tuple[int, int, bool]:
        """Runs the next block and commits it.

        Args:
            plan: what to do.

        Returns:
            Steps made, counted over the chains; divergences among them; whether it was warm-up.
        """
        begin = time.perf_counter()
        is_warmup = self.done < plan.num_warmup
        stop = plan.num_warmup if is_warmup else plan.num_steps
        length = min(self.length, plan.programs.capacity, stop - self.done)
        shared = (plan.posterior, np.int32(self.done), np.int32(length))
        state, (positions, statistics) = plan.programs.advance((self.rng_keys, self.state), shared)
        block = {"sample_stats": _rows(statistics, length)}
        if not is_warmup:
            block |= _rows(plan.programs.observe(positions, (plan.posterior, plan.probes, np.int32(length))), length)
        seconds = time.perf_counter() - begin
        if plan.write:
            plan.write(self.number, self.num_blocks, block, state)
        self._commit(block, state, length, seconds, is_warmup=is_warmup)
        self.length = min(max(1, int(length * _SECONDS_A_BLOCK / seconds)), _FASTEST_GROWTH * self.length)
        divergences = np.count_nonzero(block["sample_stats"].get("diverging", 0))
        return length * len(self.rng_keys), int(divergences), is_warmup

    def _commit(self, block: Block, state: Any, length: int, seconds: float, *, is_warmup: bool) -> None:
        self.state = state
        self.done += length
        self.num_blocks += 1
        self.busy["warmup" if is_warmup else "sampling"] += seconds
        if not is_warmup:
            self.kept.append(block)


def start_groups(
    executor: Executor, programs: Programs, rng_keys: Array, positions: Positions, posterior: Any
) -> list[Group]:
    """All groups before their first block.

    Args:
        executor: says which chains go together.
        programs: their `start` is run.
        rng_keys: the chains' keys.
        positions: where the chains start.
        posterior: placed where the programs want it.

    Returns:
        The groups.

    Raises:
        ValueError: the density is not finite where a chain starts.
    """
    groups, members = [], executor.groups(len(rng_keys))
    for number, chains in enumerate(members):
        chosen = np.asarray(chains)
        own = executor.place_chains((rng_keys[chosen], {site: x[chosen] for site, x in positions.items()}))
        state = programs.start(own, posterior)
        groups.append(Group(number, own[0], state, kept=[programs.empty_block()]))
    check_start([group.state for group in groups], members)
    return groups


def run_groups(groups: list[Group], plan: Plan, workers: int, report: Report, stop: StopRequest) -> bool:
    """Runs all groups to the end, or until a request to stop, which lets the running blocks end.

    Args:
        groups: before their first block; changed in place.
        plan: what to do.
        workers: how many groups run at once.
        report: told of each block.
        stop: looked at between blocks; where Ctrl-C still raises, it has the same effect.

    Returns:
        Whether the run was interrupted.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="chain") as pool, suppress(KeyboardInterrupt):
        _schedule(groups, plan, workers, pool, report, stop)
    return any(group.done < plan.num_steps for group in groups)


def _schedule(
    groups: list[Group], plan: Plan, workers: int, pool: ThreadPoolExecutor, report: Report, stop: StopRequest
) -> None:
    ready = list(groups)
    running: dict[Future[tuple[int, int, bool]], Group] = {}
    while running or (ready and not stop.asked):
        ready.sort(key=lambda group: group.done)
        while ready and len(running) < workers and not stop.asked:
            group = ready.pop(0)
            running[pool.submit(group.run_block, plan)] = group
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            group = running.pop(future)
            steps, divergences, is_warmup = future.result()
            report(steps, divergences, is_warmup=is_warmup)
            if group.done < plan.num_steps:
                ready.append(group)


def _rows(tree: Any, length: int) -> Any:
    """The filled rows, on the host; copied, since a view would keep the whole capacity alive."""
    return jax.tree.map(
        lambda x: np.array(x[:, :length] if isinstance(x, np.ndarray) else np.asarray(x)[:, :length]), tree
    )
