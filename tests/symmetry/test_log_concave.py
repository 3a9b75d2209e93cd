"""Exact one-dimensional samplers against scipy, quadrature, and one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from subsets import first

from symmetry.log_concave import find_mode, generalized_inverse_gaussian, sample_log_concave

NUM_DRAWS = 20_000
# Index and both weights: either sign of the index, from nearly normal to nearly gamma, and tails of many decades.
TRIPLES = [
    (2.5, 1.0, 1.0),
    (-3.0, 0.1, 20.0),
    (0.0, 1e-3, 1e-3),
    (50.0, 1e3, 1e-6),
    (-50.0, 1e-6, 1e3),
    (500.0, 1.0, 2.0),
    (0.5, 1e3, 1e3),
    (-0.5, 2.0, 1e-2),
]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def ks_against(logdensity, draws):
    """KS p-value against the CDF by quadrature on a grid that covers the draws."""
    draws = np.asarray(draws, np.float64)
    margin = 2 * np.ptp(draws)
    grid = np.linspace(draws.min() - margin, draws.max() + margin, 400_001)
    logs = np.asarray(logdensity(grid))
    density = np.exp(logs - logs.max())
    cumulated = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return stats.kstest(draws, lambda x: np.interp(x, grid, cumulated / cumulated[-1])).pvalue


def gig(nu, a, b, key=0, dtype=float):
    lanes = [jnp.full(NUM_DRAWS, value, dtype) for value in (nu, a, b)]
    return generalized_inverse_gaussian(jax.random.key(key), *lanes)


@pytest.mark.parametrize("triple", first(4, TRIPLES))
def test_generalized_inverse_gaussian(triple):
    nu, a, b = triple
    draws = np.log(np.asarray(gig(*triple)))
    assert ks_against(lambda u: nu * u - 0.5 * (a * np.exp(u) + b * np.exp(-u)), draws) > 1e-4


@pytest.mark.parametrize("triple", [triple for triple in TRIPLES if triple[0] < 500])  # where scipy gives NaN
def test_generalized_inverse_gaussian_is_scipys(triple):
    nu, a, b = triple
    law = stats.geninvgauss(nu, np.sqrt(a * b), scale=np.sqrt(b / a))
    draws = np.asarray(gig(*triple, key=1))
    assert stats.kstest(draws[:2000], law.cdf).pvalue > 1e-4
    assert abs(draws.mean() - law.mean()) < 5 * law.std() / np.sqrt(NUM_DRAWS)


def test_a_wrong_index_is_noticed():
    nu, a, b = TRIPLES[0]
    draws = np.log(np.asarray(gig(nu + 0.1, a, b)))
    assert ks_against(lambda u: nu * u - 0.5 * (a * np.exp(u) + b * np.exp(-u)), draws) < 1e-4


EXTREMES = [(2000.0, 1e6, 1.0), (0.5, 1e-5, 1e-5), (-2000.0, 1.0, 1e6), (1.0, 1e6, 1e-6)]


@pytest.mark.parametrize("triple", first(2, EXTREMES))
def test_float32_is_finite_and_unbiased(triple):
    single, double = np.asarray(gig(*triple, dtype=jnp.float32)), np.log(np.asarray(gig(*triple, key=2)))
    assert single.dtype == np.float32
    assert np.isfinite(single).all()
    assert stats.ks_2samp(np.log(single.astype(float)), double).pvalue > 1e-4


@pytest.mark.parametrize(
    "logdensity",
    [
        lambda u: 3.0 * u - 0.5 * (2.0 * np.e ** (4 * u) + 0.1 * np.e ** (-2 * u)),
        lambda u: 5.0 * u - 9.0 * _log(1.0 + 0.3 * np.e ** (2 * u)) - 4.0 * _log(2.0 + 8.0 * np.e ** (-2 * u)),
        lambda u: 2.0 * u - 2.0 * _log(1 + 0.4 * np.e ** (2 * u)) - 2.0 * _log(1 + 30.0 * np.e ** (-2 * u)),
        lambda u: 4.0 * u - 7.0 * np.e**u - 0.2 * np.e ** (-u),
        lambda u: -0.5 * ((u - 300.0) / 1e-3) ** 2,
        lambda u: -(abs(u + 40.0) ** 1.5) - 0.1 * (u + 40.0) ** 2,
    ],
    ids=["exponentials", "collapsed gamma", "Student-t", "Laplace", "narrow and far", "no closed form"],
)
def test_any_log_concave_density(logdensity):
    draws = jax.jit(lambda key: sample_log_concave(key, logdensity, jnp.zeros(NUM_DRAWS)))(jax.random.key(0))
    assert ks_against(logdensity, draws) > 1e-4


def test_lanes_have_their_own_densities():
    centres, widths = jnp.array([-3.0, 0.0, 50.0]), jnp.array([0.1, 1.0, 10.0])
    draw = jax.vmap(lambda key: sample_log_concave(key, lambda x: -0.5 * ((x - centres) / widths) ** 2, centres + 7.0))
    standardised = (draw(jax.random.split(jax.random.key(3), 4000)) - centres) / widths
    assert min(stats.kstest(np.asarray(lane), "norm").pvalue for lane in standardised.T) > 1e-4


def test_a_density_that_is_not_finite_gives_nan_and_ends():
    draws = sample_log_concave(
        jax.random.key(0), lambda x: jnp.where(jnp.arange(2) == 0, jnp.nan, -(x**2)), jnp.ones(2)
    )
    assert np.isnan(draws[0])
    assert np.isfinite(draws[1])


def test_modes_are_found_from_afar():
    mode = find_mode(lambda u: 40.0 * u - jnp.exp(u) - jnp.exp(-u), jnp.array([-30.0, 0.0, 60.0]))
    np.testing.assert_allclose(mode, np.log(40.0 + 1 / 40.0), rtol=1e-4)


def _log(x):
    return jnp.log(x)
