r"""A posterior is a NumPyro model and its data.

.. math:: \log \pi(z) = \underbrace{\textstyle\sum_s \log p(T_s(z_s)) + \log|\det \partial T_s|}_{\text{logprior}}
          + \underbrace{\textstyle\sum_o \log p(y_o \mid T(z))}_{\text{loglikelihood}}

with one bijection :math:`T_s` from unconstrained space to the support of each latent site. *Weights* are constrained
values of the latent sites, a *position* holds their unconstrained values. ``handlers.scale`` multiplies the log
densities of the sites inside it, as in NumPyro; pointwise log likelihoods are left unscaled, as in NumPyro's
``log_likelihood``.

Where the data have N rows (`rows`), B of them, drawn with equal probabilities, estimate the log density without bias:

.. math:: \widehat{\log \pi}(z) = \text{logprior} + \frac{N}{B} \sum_{i \in \text{batch}} \ell_i, \qquad
          \ell_i = \textstyle\sum_o c_{oi} \log p(y_{oi} \mid T(z)),

with :math:`c` the ``handlers.scale`` around the site, so that :math:`\sum_i \ell_i` is the log likelihood. The prior
is never subsampled, and nothing is divided by N: gradients keep the size that they have with all the data.

A `Posterior` is an immutable pytree whose leaves are the data. Pass it to compiled functions as an argument: equal
models on data of the same shapes then share one program.

References:
    Magnusson et al., posteriordb <https://arxiv.org/abs/2407.04967>, 2024: "a posterior is a model and a data set".
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key, Shaped

from . import draws, row_search, rows, tracing, values
from .arguments import Arguments
from .inspection import FunctionModel, Structure, inspect_model
from .scales import location_scale
from .tracing import Values


@jax.tree_util.register_pytree_node_class
class Posterior:
    """The posterior of a NumPyro model given its arguments.

    Args:
        model: Any NumPyro model with continuous latent sites; it must be hashable, as functions and `BNN` are.
        *args: The model's arguments. Arrays are data; all else (sizes, switches) is structure.
        **kwargs: The model's keyword arguments.

    Attributes:
        sites: Shape of each latent site, constrained, in the order of the model.
        observed: Names of the observed sites, ``numpyro.factor`` included.

    Raises:
        ValueError: If the arguments do not fit the model or are not finite; if the model has no observed site, a
            discrete latent site or a state; if observations do not fit their distribution.

    Example:
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> posterior = Posterior(model, np.array([1.0, 2.0]))
        >>> posterior.sites, posterior.observed
        ({'mu': ()}, ('y',))
    """

    _program: tracing.Program
    _structure: Structure
    _rows: rows.Rows | None

    def __init__(self, model: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        self._set(*inspect_model(model, Arguments.pack(model, args, kwargs)))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("A Posterior is immutable; build another from the new model or data.")

    def __repr__(self) -> str:
        data = ", ".join(f"{k}: {v.dtype}{list(v.shape)}" for k, v in self._program.arguments.named_arrays().items())
        size = sum(int(np.prod(shape)) for shape in self.sites.values())
        return f"Posterior({self.model}, {data}; {len(self.sites)} sites of {size} values, observed {self.observed})"

    @property
    def model(self) -> Callable[..., Any]:
        """The NumPyro model."""
        return self._program.model

    @property
    def args(self) -> tuple[Any, ...]:
        """The model's positional arguments."""
        return self._program.arguments.unpack()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The model's keyword arguments."""
        return self._program.arguments.unpack()[1]

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        """Shape of each latent site, constrained, in the order of the model."""
        return dict(self._structure.sites)

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observed sites."""
        return self._structure.observed

    def logdensity(self, position: Values) -> Float[Array, ""]:
        """Log joint density of a position, Jacobians included: minus NumPyro's ``potential_energy``."""
        return tracing.total_logprob(self._at_position(position))

    def logprior(self, position: Values) -> Float[Array, ""]:
        """The part of `logdensity` without the observed sites: log prior and Jacobians."""
        return tracing.total_logprob(tracing.prior_sites(self._at_position(position)))

    def loglikelihood(self, position: Values) -> Float[Array, ""]:
        """The part of `logdensity` from the observed sites."""
        return tracing.total_logprob(tracing.observed_sites(self._at_position(position)))

    def pointwise_loglikelihood(self, position: Values) -> dict[str, Float[Array, " ..."]]:
        """Log probability of each observation at a position, by observed site."""
        return values.pointwise(self._at_position(position))

    @property
    def num_rows(self) -> int:
        """Number of rows of the data: ValueError where they cannot be taken apart, here and in all that needs rows."""
        return self._find_rows().num_rows

    def at_rows(self, indices: Shaped[Array | np.ndarray, " ..."]) -> Posterior:
        """The posterior of some of the rows alone, in the order of their indices, which may be traced."""
        return self.tree_unflatten(self._structure, (self._find_rows().take(self._program, indices),))

    def row_loglikelihood(self, position: Values) -> Float[Array, " row"]:
        """Log likelihood of each row: all observed sites, ``handlers.scale`` included, summed over the other axes."""
        return rows.row_logprobs(self._at_position(position))

    def logdensity_estimate(self, rng_key: Key[Array, ""], position: Values, batch_size: int) -> Float[Array, ""]:
        """Unbiased estimate of `logdensity` from some of the rows, scaled as the module's docstring says.

        Args:
            rng_key: Key of the batch.
            position: Unconstrained values by site.
            batch_size: Rows to look at; all of them give `logdensity` itself.

        Returns:
            The estimate.
        """
        found = self._find_rows()
        rows.check_batch_size(batch_size, found.num_rows)
        if batch_size == found.num_rows:
            return self.logdensity(position)
        indices = rows.draw_rows(rng_key, found.num_rows, batch_size)
        return rows.estimate(self.at_rows(indices)._at_position(position), batch_size / found.num_rows)

    def log_joint(self, weights: Values) -> Float[Array, ""]:
        """Log joint density of constrained values, without Jacobians: NumPyro's ``log_density``."""
        return tracing.total_logprob(self._at_weights(weights))

    def prior_logprob(self, weights: Values) -> Float[Array, ""]:
        """The part of `log_joint` without the observed sites; relabelling leaves it as it is, unlike a Jacobian."""
        return tracing.total_logprob(tracing.prior_sites(self._at_weights(weights)))

    def observation_logprobs(self, weights: Values) -> dict[str, Float[Array, " ..."]]:
        """Log probability of each observation at constrained values, by observed site."""
        return values.pointwise(self._at_weights(weights))

    def constrain(self, position: Values) -> dict[str, Array]:
        """The weights at a position."""
        sites = self._at_position(position)
        return {name: jnp.asarray(sites[name]["value"]) for name in self.sites}

    def unconstrain(self, weights: Values) -> dict[str, Array]:
        """The position of weights."""
        sites = self._at_weights(weights)
        return {name: tracing.unconstrained(sites[name]) for name in self.sites}

    def initial(self, rng_key: Key[Array, ""], num_chains: int) -> dict[str, Array]:
        """Starting positions from the prior, with a leading axis for the chains.

        A draw without finite log density and gradient is thrown away and drawn again; where the prior gives none, a
        position is drawn uniformly from (-2, 2). A chain's start depends on the key and the chain's number alone.

        Args:
            rng_key: Random key.
            num_chains: Number of positions.

        Returns:
            Unconstrained values by site.

        Raises:
            ValueError: If no finite start was found (never raised under jit).
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng_key, jnp.arange(num_chains))
        return values.found_starts(*draws.find_starts(self._program, keys))

    def predict(self, weights: Values, *args: Any, rng_key: Key[Array, ""], **kwargs: Any) -> dict[str, Array]:
        """Draw the observed sites for given weights, at new arguments of the model.

        Args:
            weights: Constrained values with any number of leading batch dimensions, such as (chain, draw).
            *args: The model's arguments at the new inputs, without observations; none: the posterior's own.
            rng_key: Random key.
            **kwargs: The model's keyword arguments at the new inputs.

        Returns:
            One draw of each observed site for each of the batch.

        Raises:
            ValueError: If the arguments do not fit the model, or the weights its sites.
        """
        arguments = Arguments.pack(self.model, args, kwargs) if args or kwargs else self._program.arguments
        program = dataclasses.replace(self._program, arguments=arguments)
        return values.predicted(program, self.sites, self.observed, weights, rng_key)

    def function(self, weights: Values, probes: Shaped[Array | np.ndarray, " ..."] | str | None = None) -> Array:
        """What the model says at function level, for one draw.

        Args:
            weights: Constrained values of one draw.
            probes: For a `BNN` the inputs at which its network is evaluated, without them its own; for any model the
                name of a deterministic site. For a model without a function of its own and without a name: the log
                likelihood of each observation, all observed sites after one another.

        Returns:
            The values.

        Raises:
            ValueError: If the probes are inputs and the model has no function, or name no deterministic site.
        """
        if isinstance(probes, str):
            return values.deterministic(self._at_weights(weights), probes)
        model = inspect.unwrap(self.model)
        if isinstance(model, FunctionModel):
            own = inspect.signature(self.model).bind(*self.args, **self.kwargs).args[0]
            return model.function(values.checked(weights, self.sites), jnp.asarray(own if probes is None else probes))
        values.check_no_inputs(probes)
        return jnp.concatenate([jnp.ravel(value) for value in self.observation_logprobs(weights).values()])

    def deterministics(self, weights: Values) -> dict[str, Array]:
        """Values of the deterministic sites at constrained values."""
        return tracing.deterministic_values(self._at_weights(weights))

    def precisions(self, weights: Values) -> dict[str, Float[Array, " ..."]]:
        r"""Prior precision :math:`1 / s^2` of each element of the sites with a zero-mean prior family.

        The families are normal, Laplace, Student-t, logistic and mixtures of zero-mean normals; s is the standard
        deviation, or the scale parameter where that is infinite. Precisions may depend on the weights (hierarchical
        priors). Sites of other families are left out.

        Args:
            weights: Constrained values of one draw.

        Returns:
            Precisions by site, in the shape of the site.
        """
        sites = self._at_weights(weights)
        families = {name: location_scale(sites[name]["fn"]) for name in self._structure.zero_mean}
        return {n: jnp.broadcast_to(f.scale**-2, self.sites[n]) for n, f in families.items() if f is not None}

    def observed_data(self) -> dict[str, np.ndarray]:
        """The observations, by observed site; factors have none."""
        return {name: np.asarray(value) for name, value in draws.observations(self._program).items()}

    def constant_data(self) -> dict[str, np.ndarray]:
        """The arrays among the model's arguments that are not observations, by argument."""
        observed = self.observed_data().values()
        arrays = {name: np.asarray(array) for name, array in self._program.arguments.named_arrays().items()}
        return {n: a for n, a in arrays.items() if not any(np.array_equal(a, o) for o in observed)}

    def tree_flatten(self) -> tuple[tuple[tracing.Program], Structure]:
        """Data as leaves, the sites as structure."""
        return (self._program,), self._structure

    @classmethod
    def tree_unflatten(cls, structure: Structure, children: tuple[Any]) -> Posterior:
        """A posterior without inspection: its leaves may be tracers."""
        posterior = object.__new__(cls)
        posterior._set(*children, structure)
        return posterior

    def _set(self, program: Any, structure: Structure) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_structure", structure)
        object.__setattr__(self, "_rows", None)

    def _find_rows(self) -> rows.Rows:
        found = self._rows or row_search.find_rows(self._program)
        object.__setattr__(self, "_rows", found)
        return found

    def _at_position(self, position: Values) -> tracing.Trace:
        return self._program.at_position(values.checked(position, dict(self._structure.unconstrained)))

    def _at_weights(self, weights: Values) -> tracing.Trace:
        return self._program.at_weights(values.checked(weights, self.sites))
