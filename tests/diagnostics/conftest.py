"""Draws with known answers: autoregressive chains, and trees made of given arrays."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.signal import lfilter

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from diagnostics.datatree import build_tree
from inference import NUTS, Draws, sample
from symmetry import Symmetries, find_symmetries

_BURN_IN = 500


@pytest.fixture(scope="session")
def autoregressive() -> Callable[..., np.ndarray]:
    """Independent stationary AR(1) chains, ``(chain, draw, quantity)``; autocorrelation time (1 + phi) / (1 - phi)."""

    def simulate(rng: np.random.Generator, shape: tuple[int, int, int], phi: float) -> np.ndarray:
        noise = rng.normal(size=(shape[0], shape[1] + _BURN_IN, shape[2]))
        return lfilter([np.sqrt(1 - phi**2)], [1, -phi], noise, axis=1)[:, _BURN_IN:]

    return simulate


@pytest.fixture(scope="session")
def tree_of() -> Callable[..., xr.DataTree]:
    """A tree made of given arrays."""

    def build(
        weights: np.ndarray | dict[str, np.ndarray],
        function: np.ndarray | None = None,
        invariants: np.ndarray | None = None,
        symmetries: Symmetries | None = None,
        **sample_stats: np.ndarray,
    ) -> xr.DataTree:
        sites = weights if isinstance(weights, dict) else {"w": weights}
        num_chains, num_draws = next(iter(sites.values())).shape[:2]
        log_density = np.zeros((num_chains, num_draws)) if invariants is None else invariants[..., 0]
        draws = Draws(
            posterior=None,
            kernel=None,
            weights=sites,
            sample_stats={"lp": log_density, **sample_stats},
            invariants={} if invariants is None else {"log_likelihood": log_density, "log_prior": invariants[..., 1]},
            function=function,
            pointwise=None,
            probes=None,
            seconds={},
            num_chains=num_chains,
            num_draws=num_draws,
            interrupted=False,
        )
        return build_tree(draws, symmetries, {}, {})

    return build


_SINE_PROBES = np.linspace(-2.5, 2.5, 50, dtype=np.float32)[:, None]


@pytest.fixture(scope="session")
def sine_run() -> Callable[..., tuple[Draws, Symmetries]]:
    """NUTS on a small network and 40 points of a sine with little noise: chains mix but for their labels."""
    x = np.linspace(-2.0, 2.0, 40, dtype=np.float32)[:, None]
    y = (np.sin(2.5 * x[:, 0]) + 0.1 * np.random.default_rng(0).normal(size=40)).astype(np.float32)

    @functools.cache
    def run(activation: str, units: int, num_chains: int, num_draws: int, seed: int) -> tuple[Draws, Symmetries]:
        network = networks.mlp([1, units, 1], activation=activation)
        posterior = Posterior(BNN(network, priors.normal(scale=1.0), likelihoods.normal(scale=0.1)), x, y)
        draws = sample(
            posterior,
            NUTS(num_warmup=300),
            num_chains=num_chains,
            num_draws=num_draws,
            rng_key=jax.random.key(seed),
            probes=_SINE_PROBES,
            progress=False,
        )
        return draws, find_symmetries(posterior)

    return run


@pytest.fixture(scope="session")
def draws_at() -> Callable[..., Draws]:
    """Given weights in the form that a sampler returns."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0, None))
    def observe(posterior: Posterior, weights: dict[str, jax.Array], probes: jax.Array | None) -> dict:
        pointwise = posterior.observation_logprobs(weights)
        log_likelihood = sum(values.sum() for values in pointwise.values())
        return {
            "lp": posterior.log_joint(weights),
            "invariants": {"log_likelihood": log_likelihood, "log_prior": posterior.prior_logprob(weights)},
            "function": posterior.function(weights, probes),
            "pointwise": pointwise,
        }

    def build(posterior: Posterior, weights: dict[str, np.ndarray], probes: np.ndarray | None = None) -> Draws:
        kept = jax.tree.map(np.asarray, observe(posterior, weights, probes))
        num_chains, num_draws = kept["lp"].shape
        return Draws(
            posterior=posterior,
            kernel=NUTS(num_warmup=300),
            weights=weights,
            sample_stats={"lp": kept["lp"], "diverging": np.zeros((num_chains, num_draws), bool)},
            invariants=kept["invariants"],
            function=kept["function"],
            pointwise=kept["pointwise"],
            probes=probes,
            seconds={"sampling": 1.0},
            num_chains=num_chains,
            num_draws=num_draws,
            interrupted=False,
        )

    return build


@pytest.fixture(scope="session")
def prior_draws(draws_at) -> Callable[..., Draws]:
    """Standard normal draws of all sites."""

    def draw(posterior: Posterior, num_chains: int = 4, num_draws: int = 25, probes: np.ndarray | None = None) -> Draws:
        rng = np.random.default_rng(1)
        weights = {
            site: rng.normal(size=(num_chains, num_draws, *shape)).astype(np.float32)
            for site, shape in posterior.sites.items()
        }
        return draws_at(posterior, weights, probes)

    return draw


@pytest.fixture(scope="session")
def network_posterior() -> Callable[..., Posterior]:
    """A small network on made-up data."""

    @functools.cache
    def build(activation: str = "tanh", prior: priors.Prior | None = None, units: tuple[int, ...] = (3,)) -> Posterior:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(12, 2)).astype(np.float32)
        network = networks.mlp([2, *units, 1], activation=activation)
        model = BNN(network, prior or priors.normal(scale=1.0), likelihoods.normal(scale=0.5))
        return Posterior(model, x, x[:, 0] - x[:, 1])

    return build


@pytest.fixture(scope="session")
def network_case(network_posterior, prior_draws) -> Callable[..., tuple[Draws, Symmetries]]:
    """Prior draws of a small network, and its symmetries."""

    @functools.cache
    def build(*args, **kwargs) -> tuple[Draws, Symmetries]:
        posterior = network_posterior(*args, **kwargs)
        return prior_draws(posterior), find_symmetries(posterior)

    return build
