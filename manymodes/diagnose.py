"""Judge a run: convergence at three levels, which modes are only symmetries, and problems found.

Reads the run folder alone and executes nobody's Python.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="folder written by `manymodes sample` or `manymodes demo`")


def carry_out(options: argparse.Namespace) -> int:
    """Print the three-level table, the verdict and the problems; status 1 if there are problems."""
    from diagnostics import open_run

    from .run import report

    return report(open_run(options.run), json=options.json, run=options.run)
