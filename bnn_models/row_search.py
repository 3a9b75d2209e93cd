r"""Which arguments of a model run along its rows: found by shapes, checked by values.

With one row more in each of a set of arguments the model must run, its latent sites must keep their shapes, and its
observed sites must have one log probability more; the smallest such set counts. What shapes cannot tell is checked by
values, as soon as the data are at hand: neither a row's log likelihood nor the log prior changes with the rows beside
it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from . import tracing
from .rows import Rows, count_rows, row_logprobs, scaled_logprob

# Sets of arguments that are tried before the model counts as one without rows.
_MAX_TRIALS = 64
# Rows at which the check by values is made, and sizes of its position: the first counts that gives finite numbers.
_CHECKED_ROWS = 256
_CHECKED_SIZES = (1.0, 0.3, 0.1, 0.0)


def find_rows(program: tracing.Program) -> Rows:
    """Find the rows by shapes, and check them by values unless the data are tracers.

    Args:
        program: A model with its arguments.

    Returns:
        The rows.

    Raises:
        ValueError: If the model has none; the message says what stands against it.
    """
    leaves, structure = jax.tree.flatten(program)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    rows = _rows_by_shape(structure, shapes)
    if not any(isinstance(leaf, Tracer) for leaf in leaves):
        with jax.ensure_compile_time_eval():
            _check_by_value(program, rows)
    return rows


@functools.lru_cache(maxsize=64)
def _rows_by_shape(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Rows:
    """The smallest set of arguments that can have one row more; shapes are all that it looks at."""
    program: tracing.Program = jax.tree.unflatten(structure, shapes)
    latent, observed = _site_shapes(program)
    num_rows = count_rows(observed)
    arrays = program.arguments.arrays
    candidates = [i for i, a in enumerate(arrays) if a is not None and a.shape[:1] == (num_rows,)]
    if not candidates:
        raise ValueError(
            f"The observed sites have {num_rows} rows, but no array argument has a leading axis of {num_rows}; pass "
            "the data as arguments of the model, rows first, or take the full gradient (batch_size=None)."
        )

    def reason_against(chosen: tuple[int, ...]) -> str | None:
        return _reason_against(_with_rows(program, chosen, num_rows + 1), latent, observed, num_rows)

    first = reason_against(tuple(candidates))
    for chosen in itertools.islice(_subsets(candidates), _MAX_TRIALS):
        if reason_against(chosen) is None:
            for i in chosen:
                fewer = tuple(j for j in chosen if j != i)
                chosen = fewer if fewer and reason_against(fewer) is None else chosen
            return Rows(num_rows, chosen)
    names = ", ".join(program.arguments.names[i] for i in candidates)
    raise ValueError(
        f"The model's rows cannot be taken apart: with another number of rows in {names}, {first}. Take the full "
        "gradient (batch_size=None) where the rows belong together."
    )


def _subsets(candidates: list[int]) -> Iterator[tuple[int, ...]]:
    """All of them first, then with ever more of them left out."""
    for size in range(len(candidates), 0, -1):
        yield from itertools.combinations(candidates, size)


def _with_rows(program: tracing.Program, chosen: tuple[int, ...], num_rows: int) -> tracing.Program:
    arrays = [
        jax.ShapeDtypeStruct((num_rows, *a.shape[1:]), a.dtype) if i in chosen else a
        for i, a in enumerate(program.arguments.arrays)
    ]
    return replace(program, arguments=replace(program.arguments, arrays=tuple(arrays)))


def _site_shapes(program: tracing.Program) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of the latent values and of the observed sites' log probabilities; nothing is computed."""

    def run(program: tracing.Program) -> tuple[dict[str, Array], dict[str, Array]]:
        sites = program.from_prior(jax.random.key(0))
        values = {n: jnp.asarray(site["value"]) for n, site in tracing.latent_sites(sites).items()}
        return values, {n: scaled_logprob(site) for n, site in tracing.observed_sites(sites).items()}

    return jax.tree.map(lambda x: x.shape, jax.eval_shape(run, program))


def _reason_against(
    program: tracing.Program,
    latent: dict[str, tuple[int, ...]],
    observed: dict[str, tuple[int, ...]],
    num_rows: int,
) -> str | None:
    """Why a model that was given one row more is not one with `num_rows` rows; None where it is."""
    try:
        latent_now, observed_now = _site_shapes(program)
    except Exception as error:
        # Whatever a model raises at other shapes than its own says the same.
        first_line = str(error).strip().partition("\n")[0]
        return (
            f"the model does not run ({first_line}); sizes such as that of `numpyro.plate` should come from the shape "
            "of an argument, not from a number"
        )
    changed = [name for name in latent if latent_now.get(name) != latent[name]]
    if changed:
        return f"the latent site {changed[0]!r} changes its shape, so that the rows have latent variables of their own"
    for name, shape in observed.items():
        if observed_now.get(name) != (num_rows + 1, *shape[1:]):
            return (
                f"the observed site {name!r} has log probabilities of shape {observed_now.get(name)} in place of "
                f"{(num_rows + 1, *shape[1:])}, so that its rows belong together, as in a time series"
            )
    return None


def _check_by_value(program: tracing.Program, rows: Rows) -> None:
    """Compare some rows alone with the same rows among others, at one position."""
    if rows.num_rows == 1:
        return
    rng = np.random.default_rng(0)
    among = rng.permutation(rows.num_rows)[:_CHECKED_ROWS]
    chosen = rng.permutation(len(among))[: (len(among) + 1) // 2]
    if len(chosen) == len(among):
        return
    compared = (_compare(rows, program, jnp.asarray(among), jnp.asarray(chosen), size) for size in _CHECKED_SIZES)
    arrays = [jax.tree.map(np.asarray, pair) for pair in compared]
    before, after = next((pair for pair in arrays if all(np.isfinite(x).all() for x in pair[0])), arrays[-1])
    tolerance = 1e3 * float(np.finfo(before[1].dtype).eps)
    if not np.allclose(before[1], after[1], rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(
            "The model's rows cannot be taken apart: a row's log likelihood changes with the rows beside it. Compute "
            "what depends on all rows (means, scales, totals) before the model is called, or take the full gradient "
            "(batch_size=None)."
        )
    if not np.allclose(before[0], after[0], rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(
            "The model's rows cannot be taken apart: its log prior changes with them. Compute the prior's settings "
            "before the model is called, or take the full gradient (batch_size=None)."
        )


@functools.partial(jax.jit, static_argnums=0)
def _compare(
    rows: Rows, program: tracing.Program, among: Array, chosen: Array, size: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Log prior and log likelihoods of chosen rows: among others, and alone."""
    prior = tracing.latent_sites(program.from_prior(jax.random.key(0)))
    shapes = {name: jnp.shape(tracing.unconstrained(site)) for name, site in prior.items()}
    keys = jax.random.split(jax.random.key(1), len(shapes))
    position = {n: size * jax.random.normal(k, shape) for k, (n, shape) in zip(keys, shapes.items(), strict=True)}

    def values(indices: Array) -> tuple[Array, Array]:
        sites = rows.take(program, indices).at_position(position)
        return tracing.total_logprob(tracing.prior_sites(sites)), row_logprobs(sites)

    logprior, logprobs = values(among)
    return (logprior, logprobs[chosen]), values(among[chosen])
