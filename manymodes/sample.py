"""Sample a model into a run folder, find its symmetries and judge its modes.

MODEL.py is executed as Python. The run folder holds all that `diagnose` and `summary` need.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .models import add_model_arguments, posterior_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run, made by this command")
    parser.add_argument("--kernel", choices=("nuts", "hmc"), default="nuts", help="default: nuts")
    parser.add_argument("--steps", type=int, metavar="N", help="leapfrog steps of a trajectory of hmc (default: 32)")
    parser.add_argument("--max-tree-depth", type=int, metavar="N", help="of nuts: at most 2^N - 1 steps (default: 10)")
    parser.add_argument("--target", type=float, metavar="RATE", help="acceptance rate to adapt to")
    add_size_arguments(parser, chains=4, warmup=1000, draws=1000)
    parser.add_argument("--devices", type=int, metavar="N", help="spread the chains over N devices (default: by rule)")
    parser.add_argument("--x64", action="store_true", help="compute in double precision")


def add_size_arguments(parser: argparse.ArgumentParser, *, chains: int, warmup: int, draws: int) -> None:
    """Add how many chains, warm-up steps and draws, and the seed."""
    parser.add_argument("--chains", type=int, default=chains, help=f"independent chains (default: {chains})")
    parser.add_argument("--warmup", type=int, default=warmup, help=f"warm-up steps a chain (default: {warmup})")
    parser.add_argument("--draws", type=int, default=draws, help=f"draws a chain (default: {draws})")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of all randomness (default: 0)")


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"expected a seed between 0 and {2**32 - 1}, got {text}")
    return seed


def carry_out(options: argparse.Namespace) -> int:
    """Sample, and print what `diagnose` prints."""
    if options.x64:
        import jax

        jax.config.update("jax_enable_x64", val=True)
    posterior, probes = posterior_from(options)
    from .run import conduct, report

    tree = conduct(posterior, _kernel(options), options, probes=probes, devices=options.devices)
    status = report(tree, json=options.json, run=options.output)
    if not json.loads(tree.attrs["interrupted"]):
        return status
    kept = tree["posterior"].sizes["draw"]
    print(f"manymodes sample: interrupted; {kept} of {options.draws} draws a chain were kept", file=sys.stderr)
    return 1


def _kernel(options: argparse.Namespace) -> Any:
    from inference import HMC, NUTS

    chosen, other, flag = (NUTS, "hmc", "--steps") if options.kernel == "nuts" else (HMC, "nuts", "--max-tree-depth")
    if getattr(options, flag.lstrip("-").replace("-", "_")) is not None:
        raise ValueError(f"{flag} is a setting of {other}; leave it out, or choose --kernel {other}")
    settings = {
        "num_warmup": options.warmup,
        "target_acceptance_rate": options.target,
        "num_integration_steps": options.steps,
        "max_tree_depth": options.max_tree_depth,
    }
    return chosen(**{name: value for name, value in settings.items() if value is not None})
