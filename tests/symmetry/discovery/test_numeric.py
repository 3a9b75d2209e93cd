"""Primitives in NumPy and in double precision: what constants and certificates stand on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symmetry.discovery.numeric import evaluate
from symmetry.discovery.program import flatten
from symmetry.discovery.upcast import in_double_precision

RNG = np.random.default_rng(7)
F = np.float32
X = jnp.asarray(RNG.standard_normal((6, 3)), F)
MATRIX = (RNG.standard_normal((3, 3)) + 3.0 * np.eye(3)).astype(F)
RIGHT = RNG.standard_normal((3, 2)).astype(F)
CONSTANTS = {
    "cholesky": lambda: jax.lax.linalg.cholesky(jnp.asarray(MATRIX @ MATRIX.T)),
    "dot_general": lambda: jnp.einsum("bij,bjk->bik", np.stack([MATRIX] * 2), np.stack([RIGHT, 2 * RIGHT])),
    "pad": lambda: jax.lax.pad(jnp.asarray(MATRIX), np.float32(7), ((1, -1, 1), (-1, 2, 0))),
    "rev": lambda: jax.lax.rev(jnp.asarray(RIGHT), (0,)),
    "stack": lambda: jnp.stack([MATRIX, 2 * MATRIX], axis=1),
    "tile": lambda: jnp.tile(RIGHT, (2, 3)),
}


@pytest.mark.parametrize(("name", "function"), CONSTANTS.items(), ids=CONSTANTS)
def test_constants_are_folded_as_jax_evaluates_them(name, function):
    _, equations, (output,) = flatten(jax.make_jaxpr(function)())
    assert equations == ()
    assert output.constant is not None
    np.testing.assert_allclose(output.constant, function(), rtol=1e-5, atol=1e-6)
    assert name in str(jax.make_jaxpr(function)())


@pytest.mark.parametrize("left_side", [True, False])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("transpose_a", [True, False])
@pytest.mark.parametrize("unit_diagonal", [True, False])
def test_triangular_systems_of_constants(left_side, lower, transpose_a, unit_diagonal):
    right = RIGHT if left_side else RIGHT.T
    options = {"left_side": left_side, "lower": lower, "transpose_a": transpose_a}
    options |= {"unit_diagonal": unit_diagonal, "conjugate_a": False}
    folded = evaluate("triangular_solve", [MATRIX, right], options, right.shape)
    np.testing.assert_allclose(folded, jax.lax.linalg.triangular_solve(MATRIX, right, **options), rtol=1e-4, atol=1e-5)


def test_singular_systems_and_indefinite_matrices_are_undefined():
    assert np.isnan(evaluate("cholesky", [-MATRIX @ MATRIX.T], {}, (3, 3))).all()
    options = {"left_side": True, "lower": True, "transpose_a": False}
    options |= {"unit_diagonal": False, "conjugate_a": False}
    assert np.isnan(evaluate("triangular_solve", [np.zeros((3, 3)), RIGHT], options, (3, 2))).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.at[jnp.array([0, 2, 0])].add(x[:3] ** 2),
        lambda x: x.at[jnp.array([0, 2])].max(jnp.sin(x[:2])),
        lambda x: jnp.linalg.solve(x[:3] @ x[:3].T + jnp.eye(3), x[:3]),
        lambda x: jnp.abs(jnp.fft.fft(x) * 1j),
        lambda x: jax.lax.reduce_precision(x / 3.0, 8, 10),
        lambda x: (x.astype(jnp.bfloat16) / 3.0).astype(jnp.float32),
    ],
)
def test_programs_are_evaluated_in_double_precision(function):
    """Whatever precision they insist on: certificates must not see rounding."""
    doubled = in_double_precision(function, X)
    with jax.enable_x64(True):
        exact = jnp.asarray(X, np.float64)
        value = doubled(exact)
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, function(X), rtol=2e-2, atol=1e-6)
        # Inputs that differ by less than float32 tells apart give different values.
        assert np.all(np.asarray(doubled(exact * (1 + 1e-12)) - value)[:1] != 0)
