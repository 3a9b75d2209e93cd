"""Find the symmetries of a model: what cannot be told apart, with certificates.

Reads the symmetry group off the model's own computation, for any NumPyro model or JAX function; nothing is sampled.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from .functions import function_of
from .models import add_model_arguments, check_source, load_file, posterior_from, posterior_of, read_data

EPILOG = """\
MODEL.py defines a NumPyro `model`, with its data after --data, or a function of parameters and inputs in JAX, Flax or
Equinox:

    apply = network.apply               a function apply(params, x)
    x = jax.ShapeDtypeStruct(...)       its inputs: arrays, or shapes; or the array x after --data
    init = network.init                 its parameters: init(), init(key) or init(key, x), of which only the shapes are
                                        looked at; or arrays or shapes called `params`

With --no-certify nothing is allocated, so networks of any size can be looked at.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add_model_arguments(parser, "a NumPyro `model`, or `apply`, `x` and `params` or `init` (see below)")
    parser.add_argument(
        "--no-certify", action="store_true", help="read the groups off the program alone, without float64 certificates"
    )

    parser.add_argument(
        "--completeness",
        action="store_true",
        help="count the directions in which the function does not change, and how many the symmetries explain",
    )


def carry_out(options: argparse.Namespace) -> int:
    """Print the groups of the posterior and of the likelihood, and what the prior breaks."""
    from symmetry import check_completeness, find_symmetries

    check_source(options)
    model = _model_from(options)
    symmetries = find_symmetries(*model, certify=not options.no_certify)
    completeness = check_completeness(symmetries.likelihood, *model) if options.completeness else None
    if options.json:
        counted = {} if completeness is None else {"completeness": dataclasses.asdict(completeness)}
        print(json.dumps(json.loads(symmetries.to_json()) | counted))
    else:
        print(symmetries.describe(), *([completeness] if completeness else []), sep="\n")
    return 0


def _model_from(options: argparse.Namespace) -> tuple[Any, ...]:
    """Return what `find_symmetries` takes: a posterior, or a function with its parameters and inputs."""
    if options.model is None:
        return posterior_from(options)[:1]
    path = Path(options.model)
    module = load_file(path)
    if not hasattr(module, "apply"):
        return (posterior_of(module, path, read_data(options)),)
    if hasattr(module, "model"):
        raise ValueError(f"expected {path} to define either `model` or `apply`; it defines both")
    return function_of(module, path, read_data(options))
