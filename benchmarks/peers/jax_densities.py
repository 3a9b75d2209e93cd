"""The log densities that a user of JAX would write by hand, in two layouts of the matrix products.

`row_major` keeps the rows of data first; `feature_major` keeps the features first, so that the long data axis is
contiguous in every product. Data are arguments: `logdensity(position, x, y)`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .exchange import Problem

Position = Mapping[str, Any]
LogDensity = Callable[[Position, Array, Array], Array]


def density(problem: Problem, layout: str) -> LogDensity:
    """The log density in one layout.

    Args:
        problem: whose data are not used.
        layout: `row-major` or `feature-major`.

    Returns:
        A function of position, inputs and targets.
    """
    return partial(_row_major if layout == "row-major" else _feature_major, problem)


def start(problem: Problem, rng_key: Array) -> Position:
    """A draw of the prior."""
    position: dict[str, Array] = {}
    for i, num_inputs, num_outputs, _ in problem.layers:
        rng_key, key_kernel, key_bias = jax.random.split(rng_key, 3)
        position[f"w{i}"] = jax.random.normal(key_kernel, (num_inputs, num_outputs))
        position[f"b{i}"] = jax.random.normal(key_bias, (num_outputs,))
    if problem.likelihood == "normal":
        position["log_scale"] = jnp.log(jnp.abs(jax.random.normal(rng_key)))
    return position


def _row_major(problem: Problem, position: Position, x: Array, y: Array) -> Array:
    h = x
    for i, _, _, factor in problem.layers:
        h = factor * (h @ position[f"w{i}"]) + position[f"b{i}"]
        h = _activate(problem, i, h)
    return _logprior(position) + _loglikelihood(problem, position, h.T, y)


def _feature_major(problem: Problem, position: Position, x: Array, y: Array) -> Array:
    h = x.T
    for i, _, _, factor in problem.layers:
        h = factor * (position[f"w{i}"].T @ h) + position[f"b{i}"][:, None]
        h = _activate(problem, i, h)
    return _logprior(position) + _loglikelihood(problem, position, h, y)


def _activate(problem: Problem, layer: int, h: Array) -> Array:
    if layer == len(problem.layers) - 1:
        return h
    return jnp.tanh(h) if problem.activation == "tanh" else jax.nn.relu(h)


def _logprior(position: Position) -> Array:
    total = -0.5 * sum(jnp.sum(value**2) for name, value in position.items() if name != "log_scale")
    if "log_scale" in position:
        log_scale = position["log_scale"]
        total += log_scale - 0.5 * jnp.exp(2 * log_scale)
    return jnp.asarray(total)


def _loglikelihood(problem: Problem, position: Position, output: Array, y: Array) -> Array:
    """Of outputs with the features first."""
    if problem.likelihood == "categorical":
        chosen = jnp.take_along_axis(output, y[None], axis=0)[0]
        return jnp.sum(chosen - jax.nn.logsumexp(output, axis=0))
    log_scale = position["log_scale"]
    return -len(y) * log_scale - 0.5 * jnp.sum(jnp.square((y - output[0]) * jnp.exp(-log_scale)))
