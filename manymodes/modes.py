"""List the modes of a run: how many are left without symmetries, how heavy they are, and what may be missing.

Reads the run folder alone and executes nobody's Python.
"""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="folder written by `manymodes sample` or `manymodes demo`")


def carry_out(options: argparse.Namespace) -> int:
    """Print the modes of the canonical weights and of the function."""
    from diagnostics import modes, open_run

    found = modes(open_run(options.run))
    print(json.dumps({"run": str(options.run), "modes": found.to_dict()}, indent=2) if options.json else found)
    return 0
