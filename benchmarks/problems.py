r"""The posteriors P1 and P2: Bayesian networks on the diabetes data, and the same densities written by hand.

P1 is 10-16-1 with tanh (194 parameters), P2 10-16-16-1 with ReLU (466). A kernel is $N(0, 1/n_{in})$ a priori, a bias
$N(0, 1)$, the noise's scale half-normal(1), sampled as its logarithm. The hand-written densities are what a user
without this library would write, in two layouts of the matrix products: rows of data first, or features first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.infer.util import potential_energy

from bnn_models import BNN, Posterior, datasets, likelihoods, networks, priors

Position = dict[str, Array]


@dataclass(frozen=True)
class Problem:
    """A posterior's network.

    Attributes:
        widths: numbers of units, from input to output.
        activation: its name in `jax.nn`.
    """

    widths: tuple[int, ...]
    activation: str

    @property
    def model(self) -> BNN:
        """The NumPyro model."""
        network = networks.mlp(self.widths, activation=self.activation)
        return BNN(network, prior=priors.fan_in(priors.normal(scale=1.0)), likelihood=likelihoods.normal())


PROBLEMS = {"P1": Problem((10, 16, 1), "tanh"), "P2": Problem((10, 16, 16, 1), "relu")}


def load() -> tuple[Array, Array, Array]:
    """Training inputs and targets and the 50 held-out inputs, in float32."""
    data = datasets.load("diabetes", seed=0)
    return jnp.asarray(data.x_train), jnp.asarray(data.y_train), jnp.asarray(data.x_test)


def posterior(problem: Problem) -> Posterior:
    """The problem with its data."""
    x, y, _ = load()
    return Posterior(problem.model, x, y)


def row_major(problem: Problem) -> Callable[[Position, Array, Array], Array]:
    """The log density with each layer as `h @ kernel + bias`."""
    layers = _layers(problem)

    def logdensity(position: Position, x: Array, y: Array) -> Array:
        h = x
        for layer in layers:
            h = h @ position[f"{layer}.kernel"] + position[f"{layer}.bias"]
            h = h if layer == "head" else getattr(jax.nn, problem.activation)(h)
        return _log_joint(position, h[:, 0], y)

    return logdensity


def feature_major(problem: Problem) -> Callable[[Position, Array, Array], Array]:
    """The log density with each layer as `kernel.T @ h + bias` of columns: the long data axis is contiguous."""
    layers = _layers(problem)

    def logdensity(position: Position, x: Array, y: Array) -> Array:
        h = x.T
        for layer in layers:
            h = position[f"{layer}.kernel"].T @ h + position[f"{layer}.bias"][:, None]
            h = h if layer == "head" else getattr(jax.nn, problem.activation)(h)
        return _log_joint(position, h[0], y)

    return logdensity


def numpyro_model(problem: Problem) -> Callable[[Array, Array], None]:
    """The NumPyro model as its users write networks: a site an array, and `h @ kernel + bias`."""

    def model(x: Array, y: Array) -> None:
        h = x
        for layer, num_inputs, num_outputs in zip(_layers(problem), problem.widths, problem.widths[1:], strict=False):
            kernel = dist.Normal(0.0, num_inputs**-0.5).expand([num_inputs, num_outputs]).to_event(2)
            bias = dist.Normal(0.0, 1.0).expand([num_outputs]).to_event(1)
            h = h @ numpyro.sample(f"{layer}.kernel", kernel) + numpyro.sample(f"{layer}.bias", bias)
            h = h if layer == "head" else getattr(jax.nn, problem.activation)(h)
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(h[:, 0], scale), obs=y)

    return model


def _layers(problem: Problem) -> list[str]:
    return [f"hidden_{i}" for i in range(len(problem.widths) - 2)] + ["head"]


def _log_joint(position: Position, mean: Array, y: Array) -> Array:
    log_scale = position["scale"]
    total = log_scale - 0.5 * jnp.exp(2 * log_scale)
    for name, value in position.items():
        if name != "scale":
            precision = value.shape[0] if name.endswith("kernel") else 1.0
            total -= 0.5 * precision * jnp.sum(value**2)
    return total - len(y) * log_scale - 0.5 * jnp.sum(jnp.square((y - mean) / jnp.exp(log_scale)))


def spread_of_differences(problem: Problem) -> dict[str, float]:
    """How far the densities are from this library's up to a constant: the largest relative deviation at prior draws.

    In float64, so that what is left is a difference of the formulae and not of their rounding.
    """
    with jax.enable_x64(True):
        x, y, _ = (jnp.asarray(np.asarray(a, np.float64)) for a in load())
        target = Posterior(problem.model, x, y)
        positions = target.initial(jax.random.key(0), 20)
        ours = np.asarray(jax.vmap(target.logdensity)(positions))
        others = {
            "row-major": lambda q: row_major(problem)(q, x, y),
            "feature-major": lambda q: feature_major(problem)(q, x, y),
            "NumPyro": lambda q: -potential_energy(numpyro_model(problem), (x, y), {}, q),
        }
        theirs = {name: np.asarray(jax.vmap(other)(positions)) for name, other in others.items()}
    # Relative to how far the density moves from the first draw to another.
    moves = {name: (values - values[0])[1:] for name, values in theirs.items()}
    return {name: float(np.abs(move / (ours - ours[0])[1:] - 1).max()) for name, move in moves.items()}
