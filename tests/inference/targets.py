"""Posteriors with known answers that need no NumPyro: what the runner reads of a posterior, and nothing more."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@partial(jax.tree_util.register_dataclass, data_fields=["mean", "precision"], meta_fields=["gradient"])
@dataclass(frozen=True)
class Gaussian:
    """A correlated Gaussian at site `x`, and a log-normal site `scale`, independent of it."""

    mean: Array
    precision: Array
    gradient: bool = True

    @classmethod
    def example(cls, dim: int, *, gradient: bool = True) -> "Gaussian":
        rng = np.random.default_rng(dim)
        factor = rng.normal(size=(dim, dim)) / np.sqrt(dim) + np.diag(np.linspace(0.5, 2, dim))
        precision = np.linalg.inv(factor @ factor.T)
        return cls(jnp.asarray(rng.normal(size=dim)), jnp.asarray(precision), gradient)

    @property
    def covariance(self) -> np.ndarray:
        return np.linalg.inv(np.asarray(self.precision, np.float64))

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        return {"x": self.mean.shape, "scale": ()}

    @property
    def observed(self) -> tuple[str, ...]:
        return ("y",)

    def logdensity(self, position):
        return self.logprior(position) + self.loglikelihood(position)

    def logprior(self, position):
        return -0.5 * position["scale"] ** 2

    def prior_logprob(self, weights):
        return -0.5 * jnp.log(weights["scale"]) ** 2 - jnp.log(weights["scale"])

    def loglikelihood(self, position):
        position = position if self.gradient else jax.lax.stop_gradient(position)
        deviation = position["x"] - self.mean
        return -0.5 * deviation @ self.precision @ deviation

    @property
    def num_rows(self) -> int:
        return 4

    def logdensity_estimate(self, rng_key, position, batch_size):
        """As if the log likelihood were made of four rows, of a tenth to four tenths of it."""
        rows = jax.random.permutation(rng_key, 4)[:batch_size]
        shares = jnp.array([0.1, 0.2, 0.3, 0.4])[rows].sum() * 4 / batch_size
        return self.logprior(position) + shares * self.loglikelihood(position)

    def pointwise_loglikelihood(self, position):
        return {"y": -0.5 * (position["x"] - self.mean) ** 2}

    def initial(self, rng_key, num_chains):
        return {"x": jax.random.normal(rng_key, (num_chains, *self.mean.shape)), "scale": jnp.zeros(num_chains)}

    def deterministics(self, weights):
        return {"log_scale": jnp.log(weights["scale"])}

    def constrain(self, position):
        return {"x": position["x"], "scale": jnp.exp(position["scale"])}

    def unconstrain(self, weights):
        return {"x": weights["x"], "scale": jnp.log(weights["scale"])}

    def function(self, weights, probes=None):
        if isinstance(probes, str):
            return weights[probes]
        return weights["x"].sum() * (jnp.ones(3) if probes is None else probes)

    def observed_data(self):
        return {"y": np.asarray(self.mean)}

    def constant_data(self):
        return {"precision": np.asarray(self.precision)}
