r"""The rows of a posterior: data that go together, and the log likelihood of a few of them.

A model has :math:`N` rows where every observed site has a log probability whose leading axis has N entries, and some of
the array arguments have a leading axis of N: those that hold one entry for each row. `row_search` finds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int, Key, Shaped

from . import tracing

# With N > 64 B rows a batch of B drawn with replacement has under 2 % more variance, and needs no permutation of N.
_PERMUTED = 64


@dataclass(frozen=True)
class Rows:
    """Which arrays among a model's arguments run along the rows.

    Attributes:
        num_rows: Number of rows.
        arguments: Positions of those arrays in `Arguments.arrays`.
    """

    num_rows: int
    arguments: tuple[int, ...]

    def take(self, program: tracing.Program, indices: Shaped[Array | np.ndarray, " ..."]) -> tracing.Program:
        """The model with some of its rows alone, in the order of the indices; ValueError if they are none of its."""
        indices = check_indices(indices, self.num_rows)
        arrays = list(program.arguments.arrays)
        for i in self.arguments:
            arrays[i] = jnp.take(jnp.asarray(arrays[i]), indices, axis=0, mode="clip")
        return replace(program, arguments=replace(program.arguments, arrays=tuple(arrays)))


def row_logprobs(sites: tracing.Trace) -> Float[Array, " row"]:
    """Log likelihood of each row: all observed sites, ``handlers.scale`` and ``handlers.mask`` included.

    Args:
        sites: The model's sites at some position.

    Returns:
        One value a row; their sum is the log likelihood.

    Raises:
        ValueError: If the observed sites do not all have the same leading axis.
    """
    scaled = {n: scaled_logprob(site) for n, site in tracing.observed_sites(sites).items()}
    count_rows({name: value.shape for name, value in scaled.items()})
    return sum((value.reshape(value.shape[0], -1).sum(1) for value in scaled.values()), jnp.zeros(()))


def estimate(sites: tracing.Trace, share: float) -> Float[Array, ""]:
    """The estimated log density of a model with some of its rows.

    Args:
        sites: That model's sites at some position.
        share: How many of the rows it has.

    Returns:
        Log prior, and the rows' log likelihood divided by their share.
    """
    return tracing.total_logprob(tracing.prior_sites(sites)) + row_logprobs(sites).sum() / share


def draw_rows(rng_key: Key[Array, ""], num_rows: int, batch_size: int) -> Int[Array, " batch"]:
    """Draw a batch of rows, each row as likely as any other.

    Args:
        rng_key: Random key.
        num_rows: How many rows there are.
        batch_size: How many to draw: without replacement where there are at most 64 times as many.

    Returns:
        Their indices.
    """
    if num_rows <= _PERMUTED * batch_size:
        return jax.random.permutation(rng_key, num_rows)[:batch_size]
    return jax.random.randint(rng_key, (batch_size,), 0, num_rows)


def check_indices(indices: Any, num_rows: int) -> Int[Array, " batch"]:
    """Refuse what cannot be row numbers; traced values are taken on trust.

    Args:
        indices: One-dimensional whole numbers from 0.
        num_rows: How many rows there are.

    Returns:
        The indices as an array.

    Raises:
        ValueError: If they are something else.
    """
    array = jnp.asarray(indices)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer) or array.size == 0:
        raise ValueError(
            f"The indices of rows should be a vector of whole numbers, got {array.dtype}{list(array.shape)}; "
            "turn a mask into indices by numpy.flatnonzero."
        )
    if not isinstance(array, Tracer) and not 0 <= int(array.min()) <= int(array.max()) < num_rows:
        raise ValueError(
            f"The indices of rows should lie between 0 and {num_rows - 1}, got {int(array.min())} to "
            f"{int(array.max())}; the data have {num_rows} rows."
        )
    return array


def check_batch_size(batch_size: int, num_rows: int) -> None:
    """Refuse batches that are empty or larger than the data.

    Args:
        batch_size: Rows of a batch.
        num_rows: Rows of the data.

    Raises:
        ValueError: If it does not fit.
    """
    is_whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    if not is_whole or not 1 <= batch_size <= num_rows:
        raise ValueError(
            f"batch_size should be a whole number between 1 and the {num_rows} rows of the data, got {batch_size!r}; "
            "leave it out, or give None to a kernel, for all rows."
        )


def scaled_logprob(site: tracing.Site) -> Array:
    """Log probability of one site, an entry for each element of its batch, times its ``handlers.scale``."""
    logprob = tracing.site_logprob(site)
    return jnp.asarray(logprob if site["scale"] is None else site["scale"] * logprob)


def count_rows(observed: dict[str, tuple[int, ...]]) -> int:
    """The common leading axis of the observed sites' log probabilities.

    Args:
        observed: Their shapes, by site.

    Returns:
        Number of rows.

    Raises:
        ValueError: If there is none.
    """
    lengths = {name: shape[0] if shape else None for name, shape in observed.items()}
    whole = [name for name, length in lengths.items() if length is None]
    if whole:
        raise ValueError(
            f"The observed site {whole[0]!r} has one log probability in all, not one a row, so that its rows belong "
            "together; observe independent rows (a vector, without `to_event` over them), make a numpyro.factor on "
            "parameters a prior, or take the full gradient (batch_size=None)."
        )
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"The observed sites have different numbers of rows, {lengths}; rows need the same leading axis in all of "
            "them. Take the full gradient (batch_size=None)."
        )
    return next(iter(lengths.values())) or 0
