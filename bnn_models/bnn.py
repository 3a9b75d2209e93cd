r"""A Bayesian neural network is a NumPyro model like any other.

.. math:: w_s \sim p_s \ (s = 1, \dots, S), \qquad y_i \sim p(y \mid f_w(x_i)),

one latent site for each parameter array of the network f, named after it, and the observed site ``y``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Shaped

from . import likelihoods, priors
from .adapters import Inputs, adapt
from .layout import Weights


@dataclass(frozen=True)
class BNN:
    """A NumPyro model ``(x, y=None)`` of a network, a prior and a likelihood.

    Equal networks, priors and likelihoods make equal models, which share compiled programs.

    Args:
        network: A network of `bnn_models.networks`, or anything that `networks.adapt` takes.
        prior: A prior of `bnn_models.priors`, or any function ``(name, shape) -> array`` that calls ``numpyro.sample``.
        likelihood: A likelihood of `bnn_models.likelihoods`, or any function ``(output, y)`` that calls
            ``numpyro.sample(..., obs=y)``.

    Raises:
        ValueError: If one of the three is not what it should be.

    Example:
        >>> from bnn_models import BNN, likelihoods, networks, priors
        >>> model = BNN(networks.mlp([10, 3, 1]), priors.normal(scale=1.0), likelihoods.normal())
        >>> model == BNN(networks.mlp([10, 3, 1]), priors.normal(scale=1.0), likelihoods.normal())
        True
    """

    network: Any
    prior: Any
    likelihood: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", adapt(self.network))
        _check_fragment("prior", self.prior, priors.__all__)
        _check_fragment("likelihood", self.likelihood, likelihoods.__all__)

    def __call__(self, x: Inputs, y: Shaped[Array | np.ndarray, " ..."] | None = None) -> None:
        """Sample the weights and observe ``y`` given the rows of ``x``."""
        weights = {name: self.prior(name, shape) for name, shape in self.network.shapes(x).items()}
        self.likelihood(self.function(weights, x), y)

    def function(self, weights: Weights, x: Inputs) -> Array:
        """The network's output at the rows of ``x``, without noise."""
        return self.network.apply(weights, jnp.asarray(x))


def _check_fragment(what: str, value: object, choices: list[str]) -> None:
    """Refuse a name, a factory that was not called, and a distribution, which knows no site's name or shape."""
    is_factory = getattr(value, "__module__", None) == f"bnn_models.{what}s" and isinstance(value, FunctionType | type)
    kind = value if isinstance(value, type) else type(value)
    is_distribution = issubclass(kind, dist.Distribution)
    if isinstance(value, str) or is_distribution or is_factory or not callable(value):
        raise ValueError(
            f"Unknown {what} {value!r}; call one of {what}s.{{{', '.join(choices)}}}, for instance {what}s.normal()."
        )
