"""From groups of chains to draws: the run itself, with its bar, its end and its account of time."""

import sys
import time
from typing import Any

from . import distributed
from .draws import Draws, draws_from_block, join_blocks
from .interrupt import StopRequest, interruptible
from .meeting import clear, wait_for_all
from .progress import progress_bar
from .runner import Group, Plan, run_groups
from .setup import Setup
from .store import RunWriter
from .stored import all_moments


def conduct(
    setup: Setup,
    plan: Plan,
    groups: list[Group],
    writer: RunWriter | None,
    *,
    progress: bool,
    seconds: dict[str, float],
) -> Draws:
    """Runs groups to the end, or until Ctrl-C, and says what came out.

    Args:
        setup: what is run.
        plan: what every group does.
        groups: as far as they are.
        writer: of the run's folder; None where nothing is written.
        progress: whether a bar is wanted.
        seconds: wall time spent so far, by phase.

    Returns:
        The draws.

    Raises:
        OSError: a block could not be written; what was committed before stays readable.
    """
    begin, first = time.perf_counter(), distributed.is_first()
    num_chains = sum(len(group.rng_keys) for group in groups)
    done = sum(group.done * len(group.rng_keys) for group in groups)
    with interruptible() as stop:
        shown = progress and first
        total = num_chains * setup.num_steps
        with progress_bar(total, shown=shown, num_chains=num_chains, done=done) as report:
            interrupted = _run(groups, plan, report, stop, writer)
        seconds = _add(seconds, _share(time.perf_counter() - begin, groups))
        if writer:
            interrupted = _end(writer, plan, stop, seconds, interrupted=interrupted)
    if interrupted and writer and first:
        print(f"stopped; `resume` ({_command(writer)}) goes on from here", file=sys.stderr)
    return draws_from_block(
        join_blocks([group.kept for group in groups], plan.programs.thin),
        posterior=setup.posterior,
        kernel=setup.kernel,
        probes=setup.probes,
        seconds=seconds,
        interrupted=interrupted,
        thin=plan.programs.thin,
        moments=all_moments([group.moments for group in groups]),
    )


def _run(groups: list[Group], plan: Plan, report: Any, stop: Any, writer: RunWriter | None) -> bool:
    try:
        return run_groups(groups, plan, report, stop)
    except OSError as error:
        if writer is None:
            raise
        raise OSError(
            error.errno,
            f"{error.strerror}; what was committed stays readable, and `{_command(writer)}` goes on from it",
            error.filename,
        ) from error


def _end(writer: RunWriter, plan: Plan, stop: StopRequest, seconds: dict[str, float], *, interrupted: bool) -> bool:
    """Says in the manifest how the run ended, when all processes are done; returns whether any was interrupted."""
    if not plan.executor.steps_together and not distributed.is_alone():
        wait_for_all(writer.folder, stop, *distributed.place())
    _, interrupted = distributed.agree(0, stop=interrupted)
    if distributed.is_first():
        clear(writer.folder)
        writer.say("interrupted" if interrupted else "complete", seconds=seconds)
    distributed.agree(0, stop=False)
    return interrupted


def _command(writer: RunWriter) -> str:
    return f"manymodes sample --resume {writer.folder}"


def _share(seconds: float, groups: list[Group]) -> dict[str, float]:
    """Wall time split as the groups' busy time is: with several workers, warm-up and sampling overlap."""
    busy = {phase: sum(group.busy[phase] for group in groups) for phase in ("warmup", "sampling")}
    return {phase: seconds * part / max(sum(busy.values()), 1e-9) for phase, part in busy.items()}


def _add(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    return {phase: before.get(phase, 0.0) + now.get(phase, 0.0) for phase in {**before, **now}}
