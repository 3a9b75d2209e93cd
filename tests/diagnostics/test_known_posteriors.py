"""Modes and weights of NumPyro models whose posterior is known by quadrature, sampled with tempering."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from bnn_models import Posterior
from diagnostics import canonicalize, modes, to_datatree
from inference import ParallelTempering, sample
from symmetry import find_symmetries


def _rates(y):
    rate = numpyro.sample("rate", dist.Normal(0.2, 1.0))
    with numpyro.plate("day", len(y)):
        numpyro.sample("y", dist.Normal(rate**2, 1.0), obs=y)


def _weights_of_rates(y):
    """The prior leans to one of two signs that the data cannot tell apart."""
    grid = np.linspace(-5.0, 5.0, 20001)
    log_joint = -0.5 * (grid - 0.2) ** 2 - 0.5 * ((y[:, None] - grid**2) ** 2).sum(0)
    mass = np.exp(log_joint - log_joint.max())
    return np.array([mass[grid > 0].sum(), mass[grid < 0].sum()]) / mass.sum()


def _mixture(y):
    means = numpyro.sample("means", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(np.full(2, 0.5)), dist.Normal(means, 1.0)), obs=y)


def _weights_of_mixture(y):
    """Three groups and two components: the middle group goes with the left or with the right one."""
    grid = np.linspace(-7.0, 7.0, 701)
    first, second = np.meshgrid(grid, grid, indexing="ij")
    log_joint = -(first**2 + second**2) / 18
    for value in y:
        log_joint += np.logaddexp(-0.5 * (value - first) ** 2, -0.5 * (value - second) ** 2)
    mass = np.exp(log_joint - log_joint.max())
    right = np.where(first + second > 0, mass, 0.0).sum() / mass.sum()
    return np.array(sorted([right, 1 - right], reverse=True))


_GROUPS = np.concatenate([np.linspace(-0.4, 0.4, 5) + centre for centre in (-3.6, 0.02, 3.6)])
_CASES = {
    "signs": (_rates, np.random.default_rng(0).normal(1.5, 1.0, size=20), _weights_of_rates, {"function": 1}),
    "components": (_mixture, _GROUPS, _weights_of_mixture, {"function": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _CASES)
def test_modes_are_right_and_weights_within_their_errors(name):
    model, y, weigh, number = _CASES[name]
    posterior, expected = Posterior(model, y), weigh(y)
    symmetries = find_symmetries(posterior)
    shares, errors = [], []
    for seed in range(20):
        draws = sample(
            posterior,
            ParallelTempering(num_rungs=6),
            num_chains=8,
            num_draws=1000,
            rng_key=jax.random.key(seed),
            progress=False,
        )
        found = modes(canonicalize(to_datatree(draws, symmetries), posterior=posterior))
        level = found.level("canonical")
        assert len(level.modes) == 2, seed
        assert len(found.level("function").modes) == number["function"], seed
        assert level.crosses, seed
        shares.append([mode.share for mode in level.modes])
        errors.append([mode.standard_error for mode in level.modes])
    within = np.abs(np.array(shares) - expected) <= 3 * np.array(errors)
    assert (within.sum(0) >= 19).all()
    assert (np.median(errors, axis=0) <= 1.5 * np.std(shares, axis=0, ddof=1)).all()
