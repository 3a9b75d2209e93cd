"""Sample a model into a run folder, find its symmetries and judge its modes; or go on with a run.

MODEL.py is executed as Python. The run folder holds all that `diagnose` and `summary` need, and what `--resume` needs
to go on: after a crash, after Ctrl-C, or for more draws.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .kernels import add_kernel_arguments, kernel_from
from .models import add_model_arguments, is_given, posterior_from

if TYPE_CHECKING:
    from .run import Outcome

COMMAND_FILE = "command.json"
"""Beside the manifest: what was typed, for --resume."""

# What of a command says which posterior was meant; files by their whole path, to be found from anywhere.
_OF_MODELS = ("model", "data", "network", "activation", "prior", "fan_in", "likelihood", "dataset", "split")
_FILES = ("model", "data")
# What a run has settled when it is resumed.
_SETTLED = (
    "output", "kernel", "set", "orbit_moves", "steps", "max_tree_depth", "target", "batch_size", "chains", "warmup",
    "seed", "thin", "x64", "devices", "mesh",
)  # fmt: skip
_DEFAULTS = {"chains": 4, "warmup": 1000, "draws": 1000, "seed": 0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("-o", "--output", metavar="RUN", help="folder of the run, made by this command")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with a run, to the draws it was to have or, with --draws, to more"
    )
    add_kernel_arguments(parser)
    add_size_arguments(parser, **{name: None for name in ("chains", "warmup", "draws")})
    parser.add_argument("--thin", type=int, metavar="N", help="keep the weights of every Nth draw (default: by size)")
    parser.add_argument("--x64", action="store_true", help="compute in double precision")
    places = parser.add_argument_group("where to sample")
    places.add_argument("--devices", type=int, metavar="N", help="spread the chains over N devices (default: by rule)")
    places.add_argument(
        "--mesh", type=_mesh, metavar="CxD[xR]", help="chains over C devices, rows of data over D, rungs over R"
    )
    places.add_argument("--distributed", action="store_true", help="several processes, found by SLURM or Open MPI")
    places.add_argument("--coordinator", metavar="HOST:PORT", help="several processes: where process 0 listens")
    places.add_argument("--num-processes", type=int, metavar="N", help="several processes: how many")
    places.add_argument("--process-id", type=int, metavar="I", help="several processes: which one this is, from 0")


def add_size_arguments(
    parser: argparse.ArgumentParser, *, chains: int | None, warmup: int | None, draws: int | None
) -> None:
    """Add how many chains, warm-up steps and draws, and the seed; None leaves the defaults of `sample` open."""
    for flag, value, what in (
        ("chains", chains, "independent chains"),
        ("warmup", warmup, "warm-up steps a chain"),
        ("draws", draws, "draws a chain"),
    ):
        said = _DEFAULTS[flag] if value is None else value
        parser.add_argument(f"--{flag}", type=int, default=value, metavar="N", help=f"{what} (default: {said})")
    seed = None if chains is None else 0
    parser.add_argument("--seed", type=_seed, default=seed, metavar="N", help="seed of all randomness (default: 0)")


def carry_out(options: argparse.Namespace) -> int:
    """Sample, and print what `diagnose` prints."""
    several = [options.coordinator, options.num_processes, options.process_id]
    if not (options.distributed or any(value is not None for value in several)):
        return _judge(_sample(options), options)
    from .distributed import ends_together, start

    start(*several)
    with ends_together("manymodes sample"):
        outcome = _sample(options)
    # From here on the others wait, at their exit, for the first process: it must not end before them.
    return _judge(outcome, options)


def _sample(options: argparse.Namespace) -> Outcome:
    if options.resume is None and options.output is None:
        raise ValueError("expected -o RUN, the folder to make, or --resume RUN, the one to go on with")
    return _resume(options) if options.resume else _begin(options)


def _judge(outcome: Outcome, options: argparse.Namespace) -> int:
    from .run import finish, report

    tree = finish(outcome)
    if tree is None:  # not the first of several processes
        return 0
    run, wanted = options.resume or options.output, json.loads(tree.attrs["num_draws"])
    status = report(tree, json=options.json, run=run)
    if not json.loads(tree.attrs["interrupted"]):
        return status
    kept = tree["sample_stats"].sizes["draw"]
    print(
        f"manymodes sample: interrupted; {kept} of {wanted} draws a chain were kept; "
        f"manymodes sample --resume {run} goes on",
        file=sys.stderr,
    )
    return 1


def _begin(options: argparse.Namespace) -> Outcome:
    """A new run."""
    for name, value in _DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    _set_precision(x64=options.x64)
    posterior, probes = posterior_from(options)
    from inference import Keep

    from .run import conduct

    where = {"devices": options.devices, "mesh": options.mesh, "keep": Keep(thin=options.thin)}
    command = {name: getattr(options, name) for name in _OF_MODELS}
    command |= {name: str(Path(command[name]).resolve()) for name in _FILES if command[name]}
    attachments = {COMMAND_FILE: json.dumps(command, indent=2)}
    return conduct(posterior, kernel_from(options), options, probes=probes, attachments=attachments, **where)


def _resume(options: argparse.Namespace) -> Outcome:
    """A run that went on."""
    settled = [name for name in _SETTLED if is_given(getattr(options, name)) and getattr(options, name) != []]
    if settled:
        flag = settled[0].replace("_", "-")
        raise ValueError(
            f"--{flag} was settled when {options.resume} was begun; leave it out, or sample into another -o"
        )
    # Precision must be settled before anything is computed, so before `inference` reads the manifest.
    manifest = _read_json(Path(options.resume) / "manifest.json", options.resume)
    command = _read_json(Path(options.resume) / COMMAND_FILE, options.resume)
    for name in _OF_MODELS:
        if not is_given(getattr(options, name)):
            setattr(options, name, command.get(name))
    _set_precision(x64=manifest.get("dtype") == "float64")
    posterior, _ = posterior_from(options)
    from .run import go_on

    return go_on(posterior, options)


def _read_json(file: Path, run: str) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{run} cannot be resumed from here: it has no readable {file.name}; give a folder that "
            "`manymodes sample -o` wrote, or call inference.resume"
        ) from error


def _set_precision(*, x64: bool) -> None:
    if x64:
        import jax

        jax.config.update("jax_enable_x64", val=True)


def _mesh(text: str) -> tuple[int, ...]:
    parts = text.split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"expected CHAINSxDATA or CHAINSxDATAxRUNGS such as 4x2 or 2x1x4, got {text!r}"
        )
    return tuple(int(part) for part in parts)


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"expected a seed between 0 and {2**32 - 1}, got {text}")
    return seed
