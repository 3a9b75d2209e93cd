"""All that the step after a block needs, as named arrays: a kernel's State, the number of steps, running moments.

A checkpoint carries the digest of its own content. Going on from an array that is one bit off would give other draws
without a word, so what does not fit its digest is refused.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .online import Moments, Sums

_STEPS, _DIGEST, _MOMENTS = "run/steps", "run/sha256", "moments/"


@dataclass(frozen=True)
class Checkpoint:
    """Where a group of chains stands.

    Attributes:
        steps: made so far.
        state: the kernel's State, leading axis chain.
        moments: of the weights, by site, where they are thinned.
    """

    steps: int
    state: Any
    moments: dict[str, Moments] = field(default_factory=dict)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As named arrays, the digest among them.

        Example:
            >>> sorted(Checkpoint(7, {"x": np.zeros(2)}).to_arrays())
            ["['x']", 'run/sha256', 'run/steps']
        """
        leaves, _ = jax.tree.flatten_with_path(self.state)
        arrays = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
        arrays[_STEPS] = np.asarray(self.steps)
        for site, moments in self.moments.items():
            arrays |= {f"{_MOMENTS}{name}/{site}": array for name, array in _moments_to_arrays(moments).items()}
        return arrays | {_DIGEST: np.asarray(_digest(arrays))}


def read_checkpoint(file: Path, like: Any) -> Checkpoint:
    """A stored checkpoint.

    Args:
        file: as it was written.
        like: a State of the same kernel, or its shapes and dtypes.

    Returns:
        The checkpoint.

    Raises:
        ValueError: the file cannot be read, was changed, or holds the State of another kernel or model.
    """
    try:
        # Opened here: NumPy leaves a file open whose content it cannot read.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        digest = str(arrays.pop(_DIGEST))
    except Exception as error:
        raise ValueError(
            f"{str(file)!r} cannot be read ({error}); remove it to go on from the state before it."
        ) from error
    if digest != _digest(arrays):
        raise ValueError(f"{str(file)!r} was changed since it was written; remove it to go on from the one before it.")
    leaves, structure = jax.tree.flatten_with_path(like)
    expected = {jax.tree_util.keystr(path): x for path, x in leaves}
    wrong = [n for n, x in expected.items() if n not in arrays or _form(arrays[n]) != _form(x)]
    if wrong:
        raise ValueError(
            f"{str(file)!r} holds the state of another model or kernel: {', '.join(wrong)} differ in shape or type; "
            "resume with the model, data and kernel that the run was begun with."
        )
    state = jax.tree.unflatten(structure, [arrays[name] for name in expected])
    return Checkpoint(int(arrays[_STEPS]), state, _moments_from_arrays(arrays))


def _form(array: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return tuple(array.shape), np.dtype(array.dtype)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _moments_to_arrays(moments: Moments) -> dict[str, np.ndarray]:
    columns = {name: np.stack([getattr(s, name) for s in moments.segments]) for name in Sums._fields}
    return columns | {"length": np.asarray(moments.length)}


def _moments_from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Moments]:
    prefix = f"{_MOMENTS}length/"
    result = {}
    for site in (name.removeprefix(prefix) for name in arrays if name.startswith(prefix)):
        num_draws, mean, squares = (arrays[f"{_MOMENTS}{name}/{site}"] for name in Sums._fields)
        segments = [Sums(int(n), m, s) for n, m, s in zip(num_draws, mean, squares, strict=True)]
        result[site] = Moments(segments, int(arrays[prefix + site]))
    return result
