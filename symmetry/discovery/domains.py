"""Random weights for a function about which nothing is known but the shapes of its arrays.

Some arrays hold only positive numbers, a variance under a root, say, and nothing in a tree of arrays tells which. Where
normal numbers give no finite output, it is looked for by making groups of arrays negative, and halves of those groups
that cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

type Shapes = Mapping[str, tuple[int, ...]]
type Arrays = dict[str, np.ndarray]

NUM_TRIES = 3


def find_positive(sites: Shapes, is_finite: Callable[[Arrays], bool]) -> frozenset[str] | None:
    """The sites that must be positive.

    Args:
        sites: Shape of each array.
        is_finite: Whether the function is, at given arrays.

    Returns:
        Their names; None if the function is finite neither for normal nor for positive numbers.

    Example:
        >>> sites = {"mean": (), "scale": (2,)}
        >>> sorted(find_positive(sites, lambda arrays: bool((arrays["scale"] > 0).all())) or ())
        ['scale']
    """
    rng = np.random.default_rng(3)

    def finite(positive: Collection[str], negative: Collection[str] = ()) -> bool:
        arrays = random_arrays(sites, positive, rng)
        return is_finite(arrays | {site: -arrays[site] for site in negative})

    with_signs = [finite(()) for _ in range(NUM_TRIES)]
    if all(with_signs):
        return frozenset()
    if not any(finite(sites) for _ in range(NUM_TRIES)):
        return frozenset() if any(with_signs) else None
    positive: list[str] = []
    groups = [list(sites)]
    while groups:
        group = groups.pop()
        if finite(sites, group):
            continue
        if len(group) == 1:
            positive += group
        else:
            groups += [group[len(group) // 2 :], group[: len(group) // 2]]
    return frozenset(positive) if any(finite(positive) for _ in range(NUM_TRIES)) else frozenset(sites)


def random_arrays(sites: Shapes, positive: Collection[str], rng: np.random.Generator) -> Arrays:
    """Normal numbers, and numbers between 0 and 1, that keep sums over the inputs of a layer of order one."""
    return {site: random_array(shape, rng, positive=site in positive) for site, shape in sites.items()}


def random_array(shape: tuple[int, ...], rng: np.random.Generator, *, positive: bool = False) -> np.ndarray:
    """One array of `random_arrays`."""
    fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 1.0
    numbers = rng.uniform(0.1, 0.9, shape) if positive else rng.standard_normal(shape)
    return np.asarray(numbers / np.sqrt(fan_in))
