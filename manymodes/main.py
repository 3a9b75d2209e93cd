"""The front door: one parser, one place where an error becomes a sentence and an exit status.

Exit status 0: fine. 1: carried out, and the draws have problems. 2: the command could not be carried out.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from . import compare, demo, diagnose, modes, sample, summary, symmetries

DESCRIPTION = """\
This posterior has many modes: which of them are only symmetries, which are real, and have my chains seen them all?
"""

EPILOG = """\
Exit status: 0 fine, 1 problems found in the draws, 2 the command could not be carried out.
Model files are executed as Python; run folders are read without executing anything.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say
            return options.carry_out(options)
    except BrokenPipeError:
        # The reader, `head` say, has what it wanted; the interpreter would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"manymodes {options.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        # Whatever a model file or a data file raises is the user's to mend: its name and its words, not our call stack.
        print(f"manymodes {options.command}: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"manymodes {options.command}: interrupted {interrupt}".rstrip(), file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manymodes",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (demo, sample, symmetries, diagnose, modes, summary, compare):
        name = module.__name__.rpartition(".")[2]
        line = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=line, description=line, allow_abbrev=False)
        command.add_argument("--json", action="store_true", help="print one JSON object for machines")
        module.add_arguments(command)
        command.set_defaults(carry_out=module.carry_out)
    return parser


def _say(message: Warning | str, *where: Any) -> None:
    """A warning in one line: where in our code it came from is of no use in a shell."""
    del where
    print(f"manymodes: {' '.join(str(message).split())}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split())
