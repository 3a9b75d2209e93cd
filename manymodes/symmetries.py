"""Find the symmetries of a model: what cannot be told apart, with certificates.

Reads the symmetry group off the model's own computation, for any NumPyro model; nothing is sampled.
"""

from __future__ import annotations

import argparse

from .models import add_model_arguments, posterior_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_model_arguments(parser)


def carry_out(options: argparse.Namespace) -> int:
    """Print the groups of the posterior and of the likelihood, and what the prior breaks."""
    from symmetry import find_symmetries

    posterior, _ = posterior_from(options)
    symmetries = find_symmetries(posterior)
    print(symmetries.to_json() if options.json else symmetries.describe())
    return 0
