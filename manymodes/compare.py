"""Compare two runs of one model: the discrepancy of raw weights, canonical weights and functions, side by side.

Reads the run folders alone and executes nobody's Python.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    what = "two folders written by `manymodes sample` or `manymodes demo`"
    parser.add_argument("runs", nargs=2, metavar="RUN", help=what)
    parser.add_argument(
        "--kernel",
        choices=("gaussian", "laplace"),
        default="gaussian",
        help="of the maximum mean discrepancy (default: gaussian)",
    )


def carry_out(options: argparse.Namespace) -> int:
    """Print the discrepancies; a difference is no problem of the draws, so the status is 0."""
    from diagnostics import open_run
    from diagnostics.compare import compare

    with ExitStack() as opened:
        first, second = (opened.enter_context(open_run(run, lazy=True)) for run in options.runs)
        compared = compare(first, second, kernel=options.kernel)
    print(compared.to_json() if options.json else compared)
    return 0
