r"""Likelihoods: what a network's output says about the observations, each a NumPyro fragment ``(output, y)``.

=============  ===========================================  ======================  ==================
likelihood     :math:`p(y_i \mid f_i)`                      output                  y
=============  ===========================================  ======================  ==================
`normal`       :math:`N(f_i, \sigma^2)`                     (n, 1) or (n, k)        (n,) or (n, k)
`categorical`  :math:`\mathrm{softmax}(f_i)_{y_i}`          (n, classes)            (n,), integer
`bernoulli`    :math:`\mathrm{sigmoid}(\pm f_i)`            (n, 1) or (n, k)        (n,) or (n, k), 0 or 1
=============  ===========================================  ======================  ==================

The observed site is called ``y`` and has one log probability for each of the n rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

Observations = Shaped[Array | np.ndarray, " ..."]

__all__ = ["bernoulli", "categorical", "normal"]


@runtime_checkable
class Likelihood(Protocol):
    """What `BNN` asks of a likelihood: to observe ``y`` (or draw it, if ``None``) given the network's output."""

    def __call__(self, output: Float[Array, "batch output"], y: Observations | None) -> None: ...


@dataclass(frozen=True)
class Normal:
    """See `normal`."""

    scale: float | None
    prior_scale: float

    def __post_init__(self) -> None:
        for what, value in (("scale", self.scale), ("prior_scale", self.prior_scale)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"The normal likelihood needs {what} to be a positive number, got {value!r}.")

    def __call__(self, output: Float[Array, "batch output"], y: Observations | None) -> None:
        mean = _squeeze_single_output(output)
        _check_observations("normal", y, mean.shape, "real", output.shape)
        scale = self.scale or numpyro.sample("scale", dist.HalfNormal(self.prior_scale))
        numpyro.sample("y", dist.Normal(mean, scale).to_event(mean.ndim - 1), obs=y)


class ClassMajorCategorical(dist.CategoricalLogits):
    """NumPyro's categorical distribution, its log probabilities computed with the classes as rows.

    The long data axis is then contiguous, as in `networks.mlp`; and the logit of the observed class is a masked sum,
    for the derivative of picking it by its index is a scatter, which XLA's CPU compiler does one element at a time.
    """

    def log_prob(self, value: ArrayLike) -> Float[Array, " ..."]:
        value, logits = jnp.asarray(value), jnp.asarray(self.logits)
        shape = lax.broadcast_shapes(value.shape, logits.shape[:-1])
        logits = jnp.moveaxis(jnp.broadcast_to(logits, (*shape, logits.shape[-1])), -1, 0)
        classes = lax.expand_dims(jnp.arange(len(logits)), range(1, logits.ndim))
        observed = jnp.where(classes == value, logits, 0).sum(0)
        is_class = (value >= 0) & (value < len(logits))
        return jnp.where(is_class, observed - jax.nn.logsumexp(logits, 0), -jnp.inf)


@dataclass(frozen=True)
class Categorical:
    """See `categorical`."""

    def __call__(self, output: Float[Array, "batch output"], y: Observations | None) -> None:
        if output.shape[-1] < 2:
            raise ValueError(
                "The categorical likelihood needs one network output for each class, got an output of shape "
                f"{output.shape}; end the network in as many units as there are classes, or use bernoulli for two."
            )
        _check_observations("categorical", y, output.shape[:-1], "integer", output.shape)
        numpyro.sample("y", ClassMajorCategorical(output), obs=y)


@dataclass(frozen=True)
class Bernoulli:
    """See `bernoulli`."""

    def __call__(self, output: Float[Array, "batch output"], y: Observations | None) -> None:
        logits = _squeeze_single_output(output)
        _check_observations("bernoulli", y, logits.shape, "integer", output.shape)
        numpyro.sample("y", dist.BernoulliLogits(logits).to_event(logits.ndim - 1), obs=y)


def normal(scale: float | None = None, prior_scale: float = 1.0) -> Normal:
    r"""Normal observations about the network's output, :math:`y_i \sim N(f(x_i), \sigma^2)`.

    Args:
        scale: Standard deviation :math:`\sigma` of the noise; ``None`` learns it as the site ``scale``, with a
            half-normal prior, which suits standardised targets.
        prior_scale: Scale of that half-normal prior.

    Returns:
        A likelihood for real targets.

    Raises:
        ValueError: If a scale is not a positive number.
    """
    return Normal(scale, prior_scale)


def categorical() -> Categorical:
    r"""Classes, :math:`p(y_i = c) = \mathrm{softmax}(f(x_i))_c`; the network's outputs are the logits.

    Returns:
        A likelihood for integer targets 0, 1, ..., classes - 1.
    """
    return Categorical()


def bernoulli() -> Bernoulli:
    r"""Two classes, :math:`p(y_i = 1) = \mathrm{sigmoid}(f(x_i))`; the network's output is the logit.

    Returns:
        A likelihood for targets 0 and 1.
    """
    return Bernoulli()


def _squeeze_single_output(output: Float[Array, "batch output"]) -> Float[Array, "batch ..."]:
    return output[..., 0] if output.shape[-1] == 1 else output


def _check_observations(
    likelihood: str, y: Observations | None, shape: tuple[int, ...], kind: str, output_shape: tuple[int, ...]
) -> None:
    """Refuse observations that would broadcast against the network's output instead of matching it."""
    if y is None:
        return
    if jnp.shape(y) != shape:
        raise ValueError(
            f"The {likelihood} likelihood expected y of shape {shape} for a network output of shape {output_shape}, "
            f"got {jnp.shape(y)}; x and y need the same number of rows, and a single column is a vector, y[:, 0]."
        )
    dtype = jnp.result_type(y)
    allowed = (jnp.integer, jnp.bool_) if kind == "integer" else (jnp.floating, jnp.integer)
    if not any(jnp.issubdtype(dtype, a) for a in allowed):
        raise ValueError(
            f"The {likelihood} likelihood expected y of {kind} dtype, got {dtype}; convert it, for instance with "
            f"y.astype({'int' if kind == 'integer' else 'float'})."
        )
