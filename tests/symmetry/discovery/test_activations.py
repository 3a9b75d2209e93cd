"""What `fuse` reads off the values of elementwise functions, against what is known about them."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest

from symmetry.discovery.activations import UNARY, fuse
from symmetry.discovery.program import Program, flatten

ACTIVATIONS = {
    "identity": (lambda x: 1.0 * x, "odd", 1),
    "tanh": (jnp.tanh, "odd", None),
    "sin": (jnp.sin, "odd", None),
    "erf": (jax.scipy.special.erf, "odd", None),
    "soft_sign": (jax.nn.soft_sign, "odd", None),
    "hard_tanh": (jax.nn.hard_tanh, "odd", None),
    "tanh_by_exponentials": (lambda x: 2 * jax.nn.sigmoid(2 * x) - 1, "odd", None),
    "cos": (jnp.cos, "even", None),
    "relu": (jax.nn.relu, None, 1),
    "leaky_relu": (jax.nn.leaky_relu, None, 1),
    "where_leaky": (lambda x: jnp.where(x > 0, x, 0.1 * x), None, 1),
    "abs": (jnp.abs, "even", 1),
    "square": (lambda x: x**2, "even", 2),
    "cube": (lambda x: x**3, "odd", 3),
    "root": (lambda x: jnp.sqrt(jnp.abs(x)), "even", Fraction(1, 2)),
    "inverse": (lambda x: 1 / x, "odd", -1),
    "positive": (lambda x: x > 0, None, 0),
    "is_number": (lambda x: x == x, "even", 0),
    "nothing": (lambda x: 0.0 * jnp.tanh(x), "even", 0),
    "gelu": (jax.nn.gelu, None, None),
    "silu": (jax.nn.silu, None, None),
    "elu": (jax.nn.elu, None, None),
    "softplus": (jax.nn.softplus, None, None),
    "relu6": (jax.nn.relu6, None, None),
    "log_density": (lambda x: -0.5 * (x / 3) ** 2 - 0.9, "even", None),
    "odd_by_hypot": (lambda x: x / jnp.hypot(x, 1.0), "odd", None),
    "odd_times_hypot": (lambda x: jnp.tanh(x) * jnp.hypot(x, 1.0), "odd", None),
    "log_cosh": (lambda x: jnp.logaddexp(x, -x), "even", None),
    "sinc": (jnp.sinc, "even", None),
    "narrow_bump": (lambda x: jnp.tanh(x) + jnp.exp(-(((3 * x - 2) / 1e-3) ** 2) / 2), None, None),
    "narrow_window": (lambda x: jnp.where(jnp.abs(2 * x - 3.2) < 1e-3, 1.0, jnp.tanh(x)), None, None),
    "late_step": (lambda x: jnp.where((x - 2.0) ** 3 > 3.0, 2 * x, x), None, None),
    "rounding_noise": (lambda x: (x + 1e30) - 1e30, None, None),
    "almost_odd": (lambda x: x + 1e-9, None, None),
    "clipped_far_out": (lambda x: jnp.clip(x, -1e7, 1e7), "odd", None),
    "clipped_after_shrinking": (lambda x: jnp.maximum(1e-6 * x, -1.0), None, None),
}


def described(function):
    inputs, equations, outputs = flatten(jax.make_jaxpr(function)(jnp.ones(3)))
    (equation,) = fuse(Program({"x": inputs[0]}, (), equations, outputs)).equations
    assert equation.primitive == UNARY
    return equation.params["parity"], equation.params["degree"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_parity_and_degree(name):
    function, parity, degree = ACTIVATIONS[name]
    assert described(function) == (parity, degree)


def test_functions_of_two_values_are_left_alone():
    inputs, equations, outputs = flatten(
        jax.make_jaxpr(lambda x, y: jnp.tanh(x) * jnp.tanh(y))(jnp.ones(3), jnp.ones(3))
    )
    fused = fuse(Program(dict(zip("xy", inputs, strict=True)), (), equations, outputs))
    assert [equation.primitive for equation in fused.equations] == [UNARY, UNARY, "mul"]
