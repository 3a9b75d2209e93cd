r"""What a NumPyro model says about itself: its sites, their log probabilities and their Jacobians.

For a model with latent sites :math:`\theta_s` and observed sites :math:`y_o` NumPyro's log joint is

.. math:: \log p(\theta, y) = \sum_s c_s \log p(\theta_s \mid \cdot) + \sum_o c_o \log p(y_o \mid \theta),

with :math:`c` the product of the ``handlers.scale`` around a site. A site with constrained support is moved by its
bijection :math:`\theta_s = T_s(z_s)`, which adds :math:`\log |\det \partial T_s / \partial z_s|`, recorded here, as in
NumPyro, as a factor site beside it.

NumPyro's stack of handlers is global to the process: trace in the main thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to, constraints
from numpyro.handlers import seed, substitute, trace, uncondition
from numpyro.infer import init_to_sample
from numpyro.primitives import Messenger

from .arguments import Arguments

Site = dict[str, Any]
Trace = dict[str, Site]
Values = Mapping[str, Array | np.ndarray]


@partial(jax.tree_util.register_dataclass, data_fields=("arguments", "parameters"), meta_fields=("model",))
@dataclass(frozen=True)
class Program:
    """A model with all that it needs to run; a pytree whose leaves are its data.

    Attributes:
        model: A NumPyro model.
        arguments: The arguments to call it with.
        parameters: Values of its ``numpyro.param`` sites.
    """

    model: Callable[..., Any]
    arguments: Arguments
    parameters: dict[str, Any]

    def at_weights(self, weights: Values) -> Trace:
        """Run with the latent sites at constrained values."""
        return self._run(self._conditioned(weights))

    def at_position(self, position: Values) -> Trace:
        """Run with the latent sites at unconstrained values; Jacobians become factor sites."""
        return self._run(substitute(self._conditioned({}), substitute_fn=partial(_constrain_site, position)))

    def from_prior(self, rng_key: Array) -> Trace:
        """Run with the latent sites drawn from the prior (uniform in (-2, 2) where a prior cannot be drawn)."""
        return self._run(substitute(seed(self._conditioned({}), rng_key), substitute_fn=init_to_sample()))

    def predictive(self, weights: Values, rng_key: Array) -> Trace:
        """Run with the latent sites at constrained values and the observed sites drawn anew."""
        return self._run(_Redraw(seed(self._conditioned(weights), rng_key)))

    def _conditioned(self, weights: Values) -> Callable[..., Any]:
        data: dict[str, Any] = {**self.parameters, **weights}
        return substitute(self.model, data=data)

    def _run(self, model: Callable[..., Any]) -> Trace:
        args, kwargs = self.arguments.unpack()
        return trace(_DefaultKey(model)).get_trace(*args, **kwargs)


def latent_sites(sites: Trace) -> Trace:
    """The sites that a sampler moves."""
    return {name: site for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"]}


def observed_sites(sites: Trace) -> Trace:
    """The sites that carry data, ``numpyro.factor`` included, Jacobians not."""
    jacobians = {_jacobian_name(name) for name in latent_sites(sites)}
    return {
        name: site
        for name, site in sites.items()
        if site["type"] == "sample" and site["is_observed"] and name not in jacobians
    }


def prior_sites(sites: Trace) -> Trace:
    """All the sites but the observed ones: latent values and their Jacobians."""
    observed = observed_sites(sites)
    return {name: site for name, site in sites.items() if name not in observed}


def deterministic_values(sites: Trace) -> dict[str, Array]:
    """Values of the ``numpyro.deterministic`` sites."""
    return {name: jnp.asarray(site["value"]) for name, site in sites.items() if site["type"] == "deterministic"}


def site_logprob(site: Site) -> Array:
    """Log probability of one site, an entry for each element of its batch; ``handlers.scale`` is left out."""
    if site["intermediates"]:
        return site["fn"].log_prob(site["value"], site["intermediates"])
    return site["fn"].log_prob(site["value"])


def total_logprob(sites: Trace) -> Array:
    """Sum of the log probabilities of all sample sites, each times its ``handlers.scale``."""
    total = jnp.zeros(())
    for site in sites.values():
        if site["type"] == "sample":
            logprob = site_logprob(site)
            total = total + jnp.sum(logprob if site["scale"] is None else site["scale"] * logprob)
    return total


def unconstrained(site: Site) -> Array:
    """The unconstrained value of a latent site."""
    return jnp.asarray(biject_to(site["fn"].support).inv(site["value"]))


def is_factor(site: Site) -> bool:
    """Whether a site is a ``numpyro.factor``: a term of the log joint without data."""
    distribution = site["fn"]
    while isinstance(distribution, (dist.Independent, dist.ExpandedDistribution)):
        distribution = distribution.base_dist
    return isinstance(distribution, dist.Unit)


class _Redraw(uncondition):
    """Draws observed sites anew, in the shape of the observations (one scalar distribution may have many)."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and not is_factor(msg):
            num_batch = jnp.ndim(msg["value"]) - msg["fn"].event_dim
            msg["fn"] = msg["fn"].expand(jnp.shape(msg["value"])[:num_batch])
        super().process_message(msg)


class _DefaultKey(Messenger):
    """Answers ``numpyro.prng_key()`` outside of any ``seed``, as NumPyro's own densities do."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "prng_key" and msg["value"] is None and msg["kwargs"]["rng_key"] is None:
            msg["value"] = jax.random.key(0)


def _jacobian_name(site_name: str) -> str:
    return f"_{site_name}_log_det"


def _constrain_site(position: Mapping[str, Any], site: Site) -> Any:
    """Value of one site at a position; records the log determinant of its bijection."""
    if site["type"] != "sample" or site["name"] not in position:
        return None
    value = position[site["name"]]
    support = site["fn"].support
    transform = biject_to(support)
    # Inside `numpyro.contrib.control_flow.scan` the position holds the whole series, the site one element of it.
    index = site["infer"].get("_scan_current_index")
    if index is not None:
        event_dims = transform.domain.event_dim - transform.codomain.event_dim
        if jnp.ndim(value) > len(site["fn"].shape()) + event_dims:
            value = value[index]
    if _is_real(support):
        return value
    constrained = transform(value)
    log_det = transform.log_abs_det_jacobian(value, constrained)
    num_event = jnp.ndim(log_det) - jnp.ndim(constrained) + len(site["fn"].event_shape)
    axes = tuple(range(jnp.ndim(log_det) - num_event, jnp.ndim(log_det)))
    numpyro.factor(_jacobian_name(site["name"]), jnp.sum(log_det, axis=axes))
    return constrained


def _is_real(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
