"""See the whole of it on real data: a network sampled, its symmetries removed, its modes judged.

Scikit-learn's diabetes data (no download), a network of two hidden units, eight chains of NUTS.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .sample import add_size_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("-o", "--output", default="runs/demo", metavar="RUN", help="default: runs/demo, made anew")
    add_size_arguments(parser, chains=8, warmup=500, draws=500)


def carry_out(options: argparse.Namespace) -> int:
    """Run the setting of the README and explain what came out."""
    from bnn_models import BNN, Posterior, datasets, likelihoods, networks, priors
    from inference import NUTS, check_settings

    from .run import conduct, finish, forget_run, report

    data = datasets.load("diabetes", seed=0)
    network = networks.mlp([10, 2, 1], activation="tanh")
    posterior = Posterior(BNN(network, priors.normal(scale=1.0), likelihoods.normal()), data.x_train, data.y_train)
    kernel = NUTS(num_warmup=options.warmup)
    check_settings(kernel, num_chains=options.chains, num_draws=options.draws)
    forget_run(options.output)
    if not options.json:
        print(
            "A Bayesian neural network, 10-2-1 tanh, on scikit-learn's diabetes data"
            f" ({len(data.x_train)} rows to learn from).\n"
        )
    tree = finish(conduct(posterior, kernel, options, probes=data.x_test))
    assert tree is not None, "a demonstration is one process"
    status = report(tree, json=options.json, run=options.output)
    if not options.json:
        # As it was called: the command and its Python need not be on the path.
        called = Path(sys.argv[0])
        command, python = (
            (called, called.with_name("python")) if called.name == "manymodes" else ("manymodes", "python")
        )
        print(
            f"\nNext:  {command} diagnose {options.output}"
            f"\n       {command} summary {options.output} --group canonical_posterior"
            f"\n       {python} -c 'import arviz as az; print(az.from_netcdf(\"{options.output}/tree.nc\"))'"
        )
    return status
