r"""The host loop: blocks of steps, group after group, on as many workers as the executor has.

The group that is furthest behind goes next, so that all chains are about equally far whenever the run is stopped, and
no chain waits for another at the end of a block. Only a block's length comes from a timing, and it changes no draw.
"""

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array

from . import distributed
from .checkpoint import Checkpoint
from .draws import Block, thinned
from .executors import Executor
from .interrupt import StopRequest
from .meeting import ask_to_stop, is_stop_asked
from .online import Moments
from .programs import Programs
from .progress import BlockReport, Report
from .starts import Positions, check_start
from .store import RunWriter

# A first block this long times a step; the ones after it aim at so many seconds, but grow by at most this factor: the
# first trees of NUTS can be far smaller than the later ones.
_FIRST_LENGTH, _SECONDS_A_BLOCK, _FASTEST_GROWTH = 10, 1.5, 8


@dataclass(frozen=True)
class Plan:
    """What every group does.

    Attributes:
        programs: what is executed.
        executor: where.
        target: what the kernel samples, placed where the programs want it.
        posterior: what the draws are observed with, likewise.
        probes: likewise.
        num_warmup: steps that are not kept.
        num_steps: all steps of a chain.
        writer: of the run's folder; None where nothing is written.
    """

    programs: Programs
    executor: Executor
    target: Any
    posterior: Any
    probes: Any
    num_warmup: int
    num_steps: int
    writer: RunWriter | None


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
        moments: of the weights by site, where they are thinned.
        busy: seconds of computing in warm-up and in sampling.
    """

    number: int
    rng_keys: Any
    state: Any
    done: int = 0
    length: int = _FIRST_LENGTH
    num_blocks: int = 0
    kept: list[Block] = field(default_factory=list)
    moments: dict[str, Moments] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=lambda: {"warmup": 0.0, "sampling": 0.0})

    def run_block(self, plan: Plan) -> BlockReport:
        """Runs the next block and commits it.

        Args:
            plan: what to do.

        Returns:
            What there is to report of it.
        """
        begin = time.perf_counter()
        is_warmup = self.done < plan.num_warmup
        stop = plan.num_warmup if is_warmup else plan.num_steps
        length = min(self.length, plan.programs.capacity, stop - self.done)
        shared = (plan.target, np.int32(self.done), np.int32(length))
        state, (positions, statistics) = plan.programs.advance((self.rng_keys, self.state), shared)
        block = {"sample_stats": _rows(plan.executor.fetch(statistics), length)}
        if not is_warmup:
            observed = plan.programs.observe(positions, (plan.posterior, plan.probes, np.int32(length)))
            block |= self._keep(_rows(plan.executor.fetch(observed), length), plan)
        seconds = time.perf_counter() - begin
        self.state = state
        self.done += length
        if plan.writer:
            checkpoint = Checkpoint(self.done, plan.executor.fetch(state), self.moments)
            plan.writer.write_block(self.number, self.num_blocks, block, checkpoint.to_arrays())
        self.num_blocks += 1
        self.busy["warmup" if is_warmup else "sampling"] += seconds
        if not is_warmup:
            self.kept.append(block)
        self.length = min(max(1, int(length * _SECONDS_A_BLOCK / seconds)), _FASTEST_GROWTH * self.length)
        return BlockReport(self.number, block["sample_stats"], is_warmup=is_warmup)

    def _keep(self, block: Block, plan: Plan) -> Block:
        """The block as it is kept; what it loses is summed up first."""
        thin = plan.programs.thin
        if thin > 1:
            for site, draws in block["weights"].items():
                self.moments.setdefault(site, Moments()).add(draws)
        return thinned(block, self.done - plan.num_warmup, thin)


def start_groups(plan: Plan, rng_keys: Array, positions: Positions) -> list[Group]:
    """The groups of this process before their first block.

    Args:
        plan: its `start` is run.
        rng_keys: the chains' keys.
        positions: where the chains start.

    Returns:
        The groups.

    Raises:
        ValueError: the density is not finite where a chain starts.
    """
    executor, members = plan.executor, plan.executor.groups(len(rng_keys))
    groups = []
    for number in executor.owned(len(rng_keys)):
        chosen = np.asarray(members[number])
        own = executor.place_chains((rng_keys[chosen], {site: x[chosen] for site, x in positions.items()}))
        state = plan.programs.start(own, plan.target)
        groups.append(Group(number, own[0], state, kept=[plan.programs.empty_block(len(chosen))]))
    states = [executor.fetch(group.state) for group in groups]
    check_start(states, [members[group.number] for group in groups], plan.posterior, positions)
    return groups


def run_groups(groups: list[Group], plan: Plan, report: Report, stop: StopRequest) -> bool:
    """Runs all groups to the end, or until a request to stop, which lets the running blocks end.

    Args:
        groups: as far as they are; changed in place.
        plan: what to do.
        report: told of each block.
        stop: looked at between blocks, as is the folder's; where Ctrl-C still raises, it has the same effect.

    Returns:
        Whether the run was interrupted.
    """
    workers = plan.executor.workers
    with ThreadPoolExecutor(workers, thread_name_prefix="chain") as pool, suppress(KeyboardInterrupt):
        _schedule(groups, plan, workers, pool, report, stop)
    return any(group.done < plan.num_steps for group in groups)


def _schedule(
    groups: list[Group], plan: Plan, workers: int, pool: ThreadPoolExecutor, report: Report, stop: StopRequest
) -> None:
    ready = [group for group in groups if group.done < plan.num_steps]
    running: dict[Future[BlockReport], Group] = {}
    stopping = _is_stopping(plan, None, stop)
    while running or (ready and not stopping):
        ready.sort(key=lambda group: group.done)
        while ready and len(running) < workers and not stopping:
            group = ready.pop(0)
            running[pool.submit(group.run_block, plan)] = group
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            group = running.pop(future)
            report(future.result())
            stopping = _is_stopping(plan, group, stop)
            if group.done < plan.num_steps:
                ready.append(group)


def _is_stopping(plan: Plan, group: Group | None, stop: StopRequest) -> bool:
    """Whether to begin no more blocks. Processes in lock-step must all say the same, and agree on the next length."""
    writer = plan.writer
    asked = stop.asked or (writer is not None and is_stop_asked(writer.folder))
    if not plan.executor.steps_together:
        if asked and writer and not distributed.is_alone():
            ask_to_stop(writer.folder)  # the other processes look there
        return asked
    length, stopping = distributed.agree(group.length if group else 0, stop=asked)
    if group:
        group.length = length
    return stopping


def _rows(tree: Any, length: int) -> Any:
    """The filled rows; copied, since a view would keep the whole capacity alive."""
    return jax.tree.map(lambda x: np.array(x[:, :length]), tree)
