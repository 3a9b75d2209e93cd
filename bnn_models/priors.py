r"""Priors of network parameters, each a NumPyro fragment ``(name, shape) -> array``.

A prior draws one array of independent weights, :math:`w_i = s\,\varepsilon_i` with :math:`\varepsilon_i` from a
standard zero-mean family, as one NumPyro site whose dimensions are all event dimensions. ``fan_in`` divides the scale
by the square root of the number of inputs of a unit: the prior over *functions* then stays the same as the network
grows wider.

References:
    Neal, Bayesian Learning for Neural Networks (1996), chapter 2: the scaling with the number of inputs.
    Blundell et al., Weight Uncertainty in Neural Networks <https://arxiv.org/abs/1505.05424>, 2015: the scale mixture.
    Fortuin et al., Bayesian Neural Network Priors Revisited <https://arxiv.org/abs/2102.06571>, 2022: the others.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

__all__ = ["fan_in", "laplace", "logistic", "mixture", "normal", "student_t"]


@runtime_checkable
class Prior(Protocol):
    """What `BNN` asks of a prior: one draw of a named parameter array, made with ``numpyro.sample``."""

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array: ...


@dataclass(frozen=True)
class AbstractIndependentPrior:
    """Independent weights of one zero-mean family; equal by value, hence hashable and safe as a static argument."""

    @abstractmethod
    def distribution(self) -> dist.Distribution:
        """The distribution of a single weight."""

    @abstractmethod
    def scaled(self, factor: float) -> AbstractIndependentPrior:
        """The same family, its weights multiplied by ``factor``."""

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array:
        return jnp.asarray(numpyro.sample(name, self.distribution().expand(shape).to_event(len(shape))))


@dataclass(frozen=True)
class _ScalePrior(AbstractIndependentPrior):
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(type(self).__name__.lower(), "scale", self.scale)

    def scaled(self, factor: float) -> _ScalePrior:
        return dataclasses.replace(self, scale=self.scale * factor)


@dataclass(frozen=True)
class Normal(_ScalePrior):
    """See `normal`."""

    def distribution(self) -> dist.Distribution:
        return dist.Normal(0.0, self.scale)


@dataclass(frozen=True)
class Laplace(_ScalePrior):
    """See `laplace`."""

    def distribution(self) -> dist.Distribution:
        return dist.Laplace(0.0, self.scale)


@dataclass(frozen=True)
class Logistic(_ScalePrior):
    """See `logistic`."""

    def distribution(self) -> dist.Distribution:
        return dist.Logistic(0.0, self.scale)


@dataclass(frozen=True)
class StudentT(_ScalePrior):
    """See `student_t`."""

    df: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("student_t", "df", self.df)

    def distribution(self) -> dist.Distribution:
        return dist.StudentT(self.df, 0.0, self.scale)


@dataclass(frozen=True)
class Mixture(AbstractIndependentPrior):
    """See `mixture`."""

    scales: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        for scale in self.scales:
            _check_positive("mixture", "every scale", scale)
        if len(self.scales) != len(self.probabilities):
            raise ValueError(
                f"The mixture prior needs one probability for each scale, got {len(self.probabilities)} for "
                f"{len(self.scales)} scales; give both tuples the same length."
            )
        if min(self.probabilities, default=0.0) <= 0 or not math.isclose(sum(self.probabilities), 1.0, rel_tol=1e-6):
            raise ValueError(
                f"The mixture prior needs positive probabilities that add up to 1, got {self.probabilities}; "
                "divide them by their sum."
            )

    def distribution(self) -> dist.Distribution:
        components = dist.Normal(0.0, jnp.asarray(self.scales))
        return dist.MixtureSameFamily(dist.Categorical(jnp.asarray(self.probabilities)), components)

    def scaled(self, factor: float) -> Mixture:
        return dataclasses.replace(self, scales=tuple(factor * scale for scale in self.scales))


@dataclass(frozen=True)
class FanIn:
    """See `fan_in`."""

    prior: AbstractIndependentPrior

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array:
        return self.prior.scaled(num_inputs(name, shape) ** -0.5)(name, shape)


def normal(scale: float = 1.0) -> Normal:
    r"""Normal weights, :math:`w \sim N(0, s^2)`.

    Args:
        scale: Standard deviation :math:`s` of a weight.

    Returns:
        A prior.

    Raises:
        ValueError: If the scale is not a positive number.

    Example:
        >>> from bnn_models import priors
        >>> priors.normal(0.5) == priors.normal(scale=0.5)
        True
    """
    return Normal(scale)


def laplace(scale: float = 1.0) -> Laplace:
    r"""Laplace weights, :math:`p(w) = e^{-|w| / b} / 2b`.

    Args:
        scale: Scale :math:`b`; the standard deviation is :math:`\sqrt 2\, b`.

    Returns:
        A prior.
    """
    return Laplace(scale)


def student_t(df: float = 3.0, scale: float = 1.0) -> StudentT:
    r"""Student-t weights, :math:`p(w) \propto (1 + w^2 / \nu s^2)^{-(\nu + 1)/2}`.

    Args:
        df: Degrees of freedom :math:`\nu`; the variance is finite above 2.
        scale: Scale :math:`s`.

    Returns:
        A prior.
    """
    return StudentT(scale, df)


def logistic(scale: float = 1.0) -> Logistic:
    r"""Logistic weights, :math:`p(w) = \operatorname{sech}^2(w / 2s) / 4s`.

    Args:
        scale: Scale :math:`s`; the standard deviation is :math:`\pi s / \sqrt 3`.

    Returns:
        A prior.
    """
    return Logistic(scale)


def mixture(scales: tuple[float, ...] = (1.0, 0.1), probabilities: tuple[float, ...] = (0.5, 0.5)) -> Mixture:
    r"""A scale mixture of normals, :math:`w \sim \sum_k \pi_k N(0, s_k^2)` (spike and slab, in its smooth form).

    Args:
        scales: Standard deviations :math:`s_k` of the components.
        probabilities: Their weights :math:`\pi_k`, adding up to 1.

    Returns:
        A prior.

    Raises:
        ValueError: If a scale is not positive, or the probabilities are not one positive number a scale with sum 1.
    """
    return Mixture(tuple(scales), tuple(probabilities))


def fan_in(prior: Prior) -> FanIn:
    r"""Divide a prior's scale by the square root of the number of inputs of a unit, :math:`s / \sqrt{n_{in}}`.

    Biases and other vectors keep the scale: a unit has one bias however many inputs it has.

    Args:
        prior: Any prior of this module.

    Returns:
        A prior.

    Raises:
        ValueError: If the prior is none of this module.

    Example:
        >>> import numpyro
        >>> from bnn_models import priors
        >>> with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as sites:
        ...     _ = priors.fan_in(priors.normal(2.0))("head.kernel", (16, 1))
        >>> float(sites["head.kernel"]["fn"].base_dist.base_dist.scale)
        0.5
    """
    if not isinstance(prior, AbstractIndependentPrior):
        raise ValueError(
            f"fan_in needs a prior whose scale it can divide, got {prior!r}; choose from normal, laplace, student_t, "
            "logistic, mixture."
        )
    return FanIn(prior)


def num_inputs(name: str, shape: tuple[int, ...]) -> int:
    """Number of inputs of a unit of a parameter array; 1 for scalars and vectors.

    Arrays called ``weight`` are laid out ``(out, in, ...)`` as in Equinox and PyTorch, all others ``(..., in, out)`` as
    in Flax and Haiku.
    """
    if len(shape) < 2:
        return 1
    is_output_first = name.rpartition(".")[2] == "weight"
    return math.prod(shape[1:] if is_output_first else shape[:-1])


def _check_positive(family: str, what: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ValueError(
            f"The {family} prior needs {what} to be a positive number, got {value!r}; pass for instance 1.0."
        )
