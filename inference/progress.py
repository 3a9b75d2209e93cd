"""The progress bar, fed between blocks: a callback inside a program would cost more than a cheap step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@runtime_checkable
class Report(Protocol):
    """Told of each block that has ended."""

    def __call__(self, steps: int, divergences: int, *, is_warmup: bool) -> None:
        """Adds a block's steps, counted over its chains, and the divergences among them."""
        ...


@contextmanager
def progress_bar(total: int, *, shown: bool, console: Console | None = None) -> Iterator[Report]:
    """A bar on standard error while the context lasts; nothing where that is no terminal.

    Args:
        total: steps of all chains together.
        shown: whether a bar is wanted.
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
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("warm-up ", total=total, note="")
        divergent = 0

        def report(steps: int, divergences: int, *, is_warmup: bool) -> None:
            nonlocal divergent
            if is_warmup:
                bar.update(task, advance=steps)
                return
            divergent += divergences
            bar.update(task, advance=steps, description="sampling", note=f"{divergent} divergent" if divergent else "")

        yield report


def _silent(steps: int, divergences: int, *, is_warmup: bool) -> None:
    del steps, divergences, is_warmup
