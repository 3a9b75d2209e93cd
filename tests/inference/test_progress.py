"""The bar is drawn on a terminal, and nowhere else."""

import io

import pytest
from rich.console import Console

from inference.progress import progress_bar


def text_of(*, terminal: bool, shown: bool) -> str:
    file = io.StringIO()
    with progress_bar(100, shown=shown, console=Console(file=file, force_terminal=terminal, width=120)) as report:
        report(40, 7, is_warmup=True)
        report(60, 2, is_warmup=False)
    return file.getvalue()


def test_bar_says_how_far_and_what_diverged():
    text = text_of(terminal=True, shown=True)
    assert "100/100" in text
    assert "2 divergent" in text


@pytest.mark.parametrize(("terminal", "shown"), [(False, True), (True, False)])
def test_silence(terminal, shown):
    assert text_of(terminal=terminal, shown=shown) == ""
