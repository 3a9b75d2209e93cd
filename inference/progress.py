"""The progress bar, fed between blocks: a callback inside a program would cost more than a cheap block."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from .online import Moments, split_rhat


@dataclass(frozen=True)
class BlockReport:
    """A block that has ended.

    Attributes:
        group: number of its group of chains.
        statistics: of its steps under ArviZ's names, (chain, step, ...).
        is_warmup: whether it adapts.
    """

    group: int
    statistics: Mapping[str, np.ndarray]
    is_warmup: bool

    @property
    def num_steps(self) -> int:
        """Steps of all its chains."""
        first = next(iter(self.statistics.values()))
        return first.shape[0] * first.shape[1]


@runtime_checkable
class Report(Protocol):
    """Told of each block that has ended."""

    def __call__(self, block: BlockReport) -> None:
        """Adds a block."""
        ...


@dataclass
class Tally:
    """What the bar says beside its length.

    Attributes:
        divergent: divergences after warm-up.
        draws: kept draws of all chains.
        step_size: the last one of each group.
        log_density: its moments in each group.
        begin: when the first block of kept draws was reported, in seconds.
    """

    divergent: int = 0
    draws: int = 0
    step_size: dict[int, float] = field(default_factory=dict)
    log_density: dict[int, Moments] = field(default_factory=dict)
    begin: float | None = None

    def add(self, block: BlockReport, now: float) -> None:
        """Adds a block.

        Args:
            block: the block.
            now: seconds of any clock.
        """
        if "step_size" in block.statistics:
            self.step_size[block.group] = float(block.statistics["step_size"][:, -1].mean())
        if block.is_warmup:
            return
        if self.begin is None:
            self.begin = now
        else:
            self.draws += block.num_steps
        self.divergent += int(np.count_nonzero(block.statistics.get("diverging", 0)))
        if "lp" in block.statistics:
            self.log_density.setdefault(block.group, Moments()).add(block.statistics["lp"])

    def note(self, now: float) -> str:
        """Draws a second, step size, divergences and the running R-hat of the log density, as far as they are known.

        Args:
            now: seconds of the same clock.
        """
        parts = []
        if self.begin is not None and self.draws and now > self.begin:
            parts.append(f"{self.draws / (now - self.begin):.3g} draws/s")
        if self.step_size:
            parts.append(f"step size {np.mean(list(self.step_size.values())):.2g}")
        rhat = split_rhat(list(self.log_density.values())) if self.log_density else np.nan
        if np.isfinite(rhat):
            parts.append(f"R-hat(lp) {rhat:.2f}")
        if self.divergent:
            parts.append(f"{self.divergent} divergent")
        return ", ".join(parts)


@contextmanager
def progress_bar(
    total: int, *, shown: bool, num_chains: int = 1, done: int = 0, console: Console | None = None
) -> Iterator[Report]:
    """A bar on standard error while the context lasts; nothing where that is no terminal.

    Args:
        total: steps of all chains together.
        shown: whether a bar is wanted.
        num_chains: number of chains.
        done: steps made already, by a run that goes on.
        console: where to draw it; standard error by default.

    Yields:
        What to call after each block.
    """
    console = console or Console(stderr=True)
    if not (shown and console.is_terminal):
        yield _silent
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"),
        TimeElapsedColumn(), TimeLeftColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task(f"{num_chains} chains, warm-up ", total=total, completed=done, note="")
        yield _Bar(bar, task, num_chains)


@dataclass
class _Bar:
    progress: Progress
    task: TaskID
    num_chains: int
    tally: Tally = field(default_factory=Tally)

    def __call__(self, block: BlockReport) -> None:
        now = time.monotonic()
        self.tally.add(block, now)
        phase = "warm-up " if block.is_warmup else "sampling"
        description = f"{self.num_chains} chains, {phase}"
        self.progress.update(self.task, advance=block.num_steps, description=description, note=self.tally.note(now))


def _silent(block: BlockReport) -> None:
    del block
