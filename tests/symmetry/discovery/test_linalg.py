"""Normal densities with dense covariances, and linear algebra on stacks of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from truth import coloured, posterior_group

from symmetry.discovery import find_symmetries
from symmetry.discovery.exchange import exchangeable

RNG = np.random.default_rng(6)
X = jnp.asarray(RNG.standard_normal((7, 2)), jnp.float32)
Y = jnp.asarray(RNG.standard_normal(7), jnp.float32)
S, Z = "permutation", "sign"
EQUICORRELATED = 0.5 * np.eye(4) + 0.5
BLOCKS = np.eye(4) + 0.3 * np.kron(np.eye(2), np.ones((2, 2))) + 0.2
GENERAL = np.cov(RNG.standard_normal((4, 9)))
MVN = dist.MultivariateNormal


def network(prior):
    """``y = tanh(x w) v``: what is exchangeable is decided by the prior of v."""

    def model(x, y):
        w = sample("w", dist.Normal(0.0, 1.0).expand([2, 4]).to_event(2))
        v = sample("v", prior())
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 0.1), obs=y)

    return model


def reasons(group, site):
    return {pin.reason for pin in group.pinned if pin.site == site}


PRIORS = {
    "covariance": lambda: MVN(jnp.zeros(4), EQUICORRELATED),
    "precision": lambda: MVN(jnp.zeros(4), precision_matrix=EQUICORRELATED),
    "Cholesky factor": lambda: MVN(jnp.zeros(4), scale_tril=jnp.linalg.cholesky(EQUICORRELATED)),
    "one number as mean": lambda: MVN(0.0, jnp.asarray(EQUICORRELATED)),
    "low rank": lambda: dist.LowRankMultivariateNormal(jnp.zeros(4), jnp.ones((4, 1)), jnp.ones(4)),
    "Student": lambda: dist.MultivariateStudentT(4.0, jnp.zeros(4), jnp.linalg.cholesky(EQUICORRELATED)),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_equal_correlations(prior):
    """S_4, and the sign of all units at once: that of one unit changes its correlations."""
    assert coloured(posterior_group(network(prior), X, Y)) == {(S, 4, None), (Z, 1, None)}


def test_a_mean_that_is_not_zero_has_no_sign():
    assert coloured(posterior_group(network(lambda: MVN(0.5, EQUICORRELATED)), X, Y)) == {(S, 4, None)}


def test_means_that_are_not_equal():
    group = posterior_group(network(lambda: MVN(jnp.array([0.0, 0.0, 0.0, 1.0]), EQUICORRELATED)), X, Y)
    assert coloured(group) == {(S, 4, (0, 0, 0, 1))}


def test_blocks_that_are_equally_correlated():
    assert coloured(posterior_group(network(lambda: MVN(jnp.zeros(4), BLOCKS)), X, Y)) == {
        (S, 4, (0, 0, 1, 1)),
        (Z, 1, None),
    }


def test_a_diagonal_covariance_keeps_the_signs():
    prior = network(lambda: MVN(jnp.zeros(4), jnp.diag(jnp.array([1.0, 2.0, 1.0, 2.0]))))
    assert coloured(posterior_group(prior, X, Y)) == {(S, 4, (0, 1, 0, 1)), (Z, 4, None)}


def test_a_general_covariance_is_the_reason():
    group = posterior_group(network(lambda: MVN(jnp.zeros(4), GENERAL)), X, Y)
    assert coloured(group) == {(Z, 1, None)}
    assert reasons(group, "v") == {"unequal covariances"}


def test_correlated_rows():
    """Each input has a vector of weights to the units, equally correlated; and the other way round."""

    def model(x, y):
        w = sample("w", MVN(jnp.zeros(4), EQUICORRELATED).expand([2]).to_event(1))
        v = sample("v", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 0.1), obs=y)

    assert coloured(posterior_group(model, X, Y)) == {(S, 4, None), (Z, 1, None)}


def test_correlated_columns():
    def model(x, y):
        w = sample("w", MVN(jnp.zeros(2), jnp.eye(2) + 0.5).expand([4]).to_event(1))
        v = sample("v", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ w.T) @ v, 0.1), obs=y)

    assert coloured(posterior_group(model, X, Y)) == {(S, 4, None), (Z, 4, None)}


@pytest.mark.slow
def test_a_copula():
    def model(x, y):
        w = sample("w", dist.Normal(0.0, 1.0).expand([2, 4]).to_event(2))
        v = sample("v", dist.GaussianCopula(dist.Exponential(2.0), EQUICORRELATED))
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 0.1), obs=y)

    assert coloured(posterior_group(model, X, Y)) == {(S, 4, None)}


def mixture(factors):
    """Three components with means and factors of their covariances."""

    def model(x):
        weights = sample("weights", dist.Dirichlet(jnp.ones(3)))
        with plate("components", 3):
            means = sample("means", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
            components = MVN(means, scale_tril=factors())
        with plate("data", 7):
            sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=x)

    return model


def learned_factors():
    scales = sample("scales", dist.HalfNormal(1.0).expand([2]).to_event(1))
    below = sample("below", dist.Normal(0.0, 1.0))
    return jax.vmap(jnp.diag)(scales) + below[:, None, None] * jnp.array([[0.0, 0.0], [1.0, 0.0]])


@pytest.mark.parametrize("factors", [learned_factors, lambda: jnp.eye(2) + jnp.array([[0.0, 0.0], [0.3, 0.0]])])
def test_the_components_of_a_mixture(factors):
    """Label switching: whatever the covariance of a component is, it moves along."""
    assert coloured(posterior_group(mixture(factors), X)) == {(S, 3, None)}


def test_a_gaussian_process_with_a_length_scale_for_each_feature():
    """Features that are equal are exchangeable, the data are not."""

    def model(x, y):
        scales = sample("scales", dist.HalfNormal(1.0).expand([3]).to_event(1))
        features = x[:, :1] / scales
        squares = jnp.sum((features[:, None] - features[None]) ** 2, -1)
        sample("y", MVN(jnp.zeros(7), jnp.exp(-squares) + 0.1 * jnp.eye(7)), obs=y)

    assert coloured(posterior_group(model, X, Y)) == {(S, 3, None)}


def test_a_whitened_value_that_is_looked_at_is_ordered():
    """``L^-1 v`` itself, and not only its norm, tells the positions of v apart."""
    factor = np.linalg.cholesky(EQUICORRELATED).astype(np.float32)

    def apply(params, x):
        z = jax.scipy.linalg.solve_triangular(factor, params["v"], lower=True)
        return jnp.tanh(x @ params["w"]) @ params["v"] + jnp.sum(z**2) + jnp.sum(jnp.abs(z))

    params = {"w": jax.ShapeDtypeStruct((2, 4), jnp.float32), "v": jax.ShapeDtypeStruct((4,), jnp.float32)}
    group = find_symmetries(apply, params, X).likelihood
    assert not [factor for factor in group.factors if factor.size > 1]
    assert reasons(group, "v") == {"position in triangular_solve"}


def test_products_of_one_whitened_column_with_another():
    """They tie the columns: with norms alone, each column would have a permutation of its own."""
    factor = np.linalg.cholesky(EQUICORRELATED).astype(np.float32)

    def apply(params, x):
        z = jax.scipy.linalg.solve_triangular(factor, params["v"], lower=True)
        return jnp.cos(z.T @ z)[0] + x[0]

    params = {"v": jax.ShapeDtypeStruct((4, 2), jnp.float32)}
    assert not [one for one in find_symmetries(apply, params, X).likelihood.factors if one.size == 4]


def test_norms_of_whitened_columns():
    def apply(params, x):
        z = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(EQUICORRELATED), params["v"], lower=True)
        return jnp.sum(z**2, 0) + x[0]

    (factor,) = (
        one
        for one in find_symmetries(apply, {"v": jax.ShapeDtypeStruct((4, 2), jnp.float32)}, X).likelihood.factors
        if one.size == 4
    )
    assert (factor.kind, factor.fibre_shape) == (S, (2,))


@pytest.mark.parametrize("left_side", [True, False])
@pytest.mark.parametrize("transpose_a", [True, False])
@pytest.mark.parametrize("lower", [True, False])
def test_every_way_to_write_a_triangular_system(left_side, transpose_a, lower):
    """``|A^-1 v|^2`` with the covariance ``A A^T``, ``|v A^-1|^2`` with ``A^T A``: three units are equal."""
    covariance = np.eye(4) + np.diag([0.0, 0.0, 0.0, 1.0]) + 0.5
    upper = transpose_a == lower
    root = (
        np.linalg.cholesky(covariance[::-1, ::-1])[::-1, ::-1] if upper == left_side else np.linalg.cholesky(covariance)
    )
    matrix = root if left_side else root.T
    matrix = matrix.T if transpose_a else matrix

    def apply(params, x):
        v = params["v"][:, None] if left_side else params["v"][None]
        options = {"left_side": left_side, "transpose_a": transpose_a, "lower": lower}
        z = jax.lax.linalg.triangular_solve(jnp.asarray(matrix, x.dtype), v, **options)
        return jnp.tanh(x @ params["w"]) @ params["v"] + jnp.sum(z**2)

    assert np.allclose(np.triu(matrix, 1) if lower else np.tril(matrix, -1), 0)
    params = {"w": jax.ShapeDtypeStruct((2, 4), jnp.float64), "v": jax.ShapeDtypeStruct((4,), jnp.float64)}
    with jax.enable_x64(True):
        group = find_symmetries(apply, params, np.asarray(X, np.float64)).likelihood
    assert coloured(group) == {(S, 4, (0, 0, 0, 1)), (Z, 1, None)}


@pytest.mark.parametrize(
    "function",
    [
        jnp.linalg.cholesky,
        lambda a: jnp.linalg.eigh(a)[0],
        lambda a: jnp.linalg.svd(a, compute_uv=False),
        lambda a: jnp.linalg.qr(a)[1] ** 2,
        jnp.linalg.det,
    ],
)
def test_the_matrices_of_a_stack_are_exchangeable(function):
    def apply(params, x):
        matrices = params["a"] @ params["a"].mT + 0.1 * jnp.eye(3)
        return jnp.einsum("k...,k->...", function(matrices), params["v"]) + x[0, 0]

    params = {"a": jax.ShapeDtypeStruct((4, 3, 3), jnp.float32), "v": jax.ShapeDtypeStruct((4,), jnp.float32)}
    group = find_symmetries(apply, params, X).likelihood
    assert (S, 4, None) in coloured(group)
    assert "a" in {slot.site for factor in group.factors if factor.kind == S for slot in factor.slots}


def test_a_scale_passes_through_a_cholesky_factor():
    """``a -> lambda a`` makes ``chol(a a^T)`` lambda times larger."""

    def apply(params, x):
        factors = jnp.linalg.cholesky(params["a"] @ params["a"].mT)
        return jnp.einsum("kij,k->ij", factors, params["v"]) + x[0, 0]

    params = {"a": jax.ShapeDtypeStruct((4, 3, 3), jnp.float32), "v": jax.ShapeDtypeStruct((4,), jnp.float32)}
    group = find_symmetries(apply, params, X).likelihood
    (scale,) = [factor for factor in group.factors if factor.kind == "scale" and factor.size == 4]
    assert {slot.site: slot.exponent for slot in scale.slots} == {"a": 1, "v": -1}


@pytest.mark.parametrize(
    ("matrix", "labels"),
    [
        (EQUICORRELATED, (0, 0, 0, 0)),
        (BLOCKS, (0, 0, 1, 1)),
        (GENERAL, (0, 1, 2, 3)),
        (np.diag([1.0, 2.0, 1.0, 2.0]), (0, 1, 0, 1)),
        (np.diag([1.0, 1.0 + 1e-9, 1.0, 1.0]), (0, 1, 0, 0)),
        (np.eye(4) + np.eye(4, k=1) * 0.1 + np.eye(4, k=-1) * 0.1, (0, 1, 2, 3)),
    ],
)
def test_exchangeable_positions(matrix, labels):
    assert exchangeable(matrix) == labels
    assert exchangeable(np.stack([np.eye(4), 1e6 * matrix])) == labels
    for i in range(4):
        for j in range(i):
            order = np.arange(4)
            order[[i, j]] = j, i
            assert (labels[i] == labels[j]) == np.allclose(matrix[order][:, order], matrix, rtol=0.0, atol=1e-12)
