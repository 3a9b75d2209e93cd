"""Print ArviZ's summary of a run: means, intervals, ESS and R-hat, one line a quantity.

Reads the run folder alone and executes nobody's Python.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="folder written by `manymodes sample` or `manymodes demo`")
    parser.add_argument(
        "--group",
        default="posterior",
        help="posterior, canonical_posterior, function or invariants (default: posterior)",
    )
    parser.add_argument("--vars", nargs="+", metavar="NAME", help="only these variables")


def carry_out(options: argparse.Namespace) -> int:
    """Print the summary of one group."""
    from diagnostics import open_run, summary

    table = summary(open_run(options.run), group=options.group, var_names=options.vars)
    print(table.to_json(orient="index") if options.json else table.to_string())
    return 0
