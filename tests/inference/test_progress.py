"""The bar is drawn on a terminal, and nowhere else; what it says is what the blocks said."""

import io

import numpy as np
import pytest
from rich.console import Console

from inference.progress import BlockReport, Tally, progress_bar


def block(num_steps, *, is_warmup=False, group=0, divergent=0, shift=0.0):
    rng = np.random.default_rng(num_steps + group)
    diverging = np.zeros((2, num_steps), bool)
    diverging.ravel()[:divergent] = True
    statistics = {
        "lp": shift + rng.normal(size=(2, num_steps)),
        "step_size": np.full((2, num_steps), 0.25),
        "diverging": diverging,
    }
    return BlockReport(group, statistics, is_warmup=is_warmup)


def text_of(*, terminal: bool, shown: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=160)
    with progress_bar(200, shown=shown, num_chains=2, done=40, console=console) as report:
        report(block(20, is_warmup=True, divergent=7))
        report(block(60, divergent=2))
    return file.getvalue()


def test_bar_says_how_far_and_what_diverged():
    text = text_of(terminal=True, shown=True)
    assert "200/200" in text
    assert "2 chains" in text
    assert "2 divergent" in text
    assert "step size 0.25" in text
    assert "R-hat(lp) 1.0" in text


@pytest.mark.parametrize(("terminal", "shown"), [(False, True), (True, False)])
def test_silence(terminal, shown):
    assert text_of(terminal=terminal, shown=shown) == ""


def test_note_has_draws_a_second_after_the_first_block():
    tally = Tally()
    tally.add(block(10, is_warmup=True), now=0.0)
    tally.add(block(50), now=5.0)
    assert "draws/s" not in tally.note(now=5.0)
    tally.add(block(100), now=9.0)
    assert "50 draws/s" in tally.note(now=9.0)


def test_note_notices_chains_that_disagree():
    tally = Tally()
    for group in range(4):
        tally.add(block(64, group=group, shift=10.0 * group), now=float(group))
    assert float(tally.note(now=9.0).partition("R-hat(lp) ")[2].partition(",")[0]) > 2
