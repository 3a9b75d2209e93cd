"""Which positions of known matrices may change places, in rows and columns at once.

No two rows of the identity matrix are equal, yet it stays as it is when rows and columns are permuted alike. Positions
i and j are exchangeable if exchanging them does that; this is an equivalence, for (i k) = (i j) (j k) (i j).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

# A position is compared with this many classes of others that look like it; after that it is a class of its own.
MAX_CLASSES = 64


def exchangeable(matrices: np.ndarray, bound: np.ndarray | float = 0.0) -> tuple[int, ...]:
    """Labels of the positions: two have the same where exchanging them leaves all the matrices as they are.

    Args:
        matrices: ``(..., n, n)``.
        bound: Entries that differ by no more than this are equal, ``(..., n, n)``; itself as exchangeable as they are.

    Returns:
        One label for each of the n positions.

    Example:
        >>> import numpy as np
        >>> exchangeable(np.diag([1.0, 2.0, 1.0]))
        (0, 1, 0)
    """
    size = matrices.shape[-1]
    stack = matrices.reshape(-1, size, size)
    bounds = np.broadcast_to(bound, matrices.shape).reshape(stack.shape)
    looks = _looks(stack, exact=not np.any(bounds))
    labels: list[int] = []
    classes: dict[int, list[tuple[int, int]]] = {}
    for position in range(size):
        alike = classes.setdefault(looks[position], [])
        same = (label for label, other in alike[:MAX_CLASSES] if _exchange(stack, bounds, other, position))
        labels.append(next(same, max(labels, default=-1) + 1))
        if labels.count(labels[-1]) == 1:
            alike.append((labels[-1], position))
    return tuple(labels)


def joint_labels(array: np.ndarray) -> tuple[tuple[int, int], tuple[int, ...]] | None:
    """Two dimensions of an array whose positions are told apart less when they are moved alike, and their labels.

    Args:
        array: Any known numbers.

    Returns:
        The dimensions and one label for each of their positions; None if there are no such dimensions.
    """
    for first, second in combinations(range(array.ndim), 2):
        if 1 < array.shape[first] == array.shape[second]:
            labels = exchangeable(np.moveaxis(array, (first, second), (-2, -1)))
            apart = (len({row.tobytes() for row in np.moveaxis(array, dim, 0)}) for dim in (first, second))
            if len(set(labels)) < min(apart):
                return (first, second), labels
    return None


def _looks(stack: np.ndarray, *, exact: bool) -> list[int]:
    """Numbers that exchangeable positions share: that of their diagonal entries and sorted rows and columns."""
    if not exact:
        return [0] * stack.shape[-1]
    diagonal = np.diagonal(stack, axis1=-2, axis2=-1)
    seen: dict[bytes, int] = {}
    looks = []
    for position in range(stack.shape[-1]):
        parts = (diagonal[:, position], np.sort(stack[:, position]), np.sort(stack[:, :, position]))
        looks.append(seen.setdefault(b"".join(np.ascontiguousarray(part).tobytes() for part in parts), len(seen)))
    return looks


def _exchange(stack: np.ndarray, bounds: np.ndarray, i: int, j: int) -> bool:
    """Whether rows i and j, and columns i and j, are equal but for their entries at i and j, which change places."""
    order = np.arange(stack.shape[-1])
    order[[i, j]] = j, i

    def agree(left: np.ndarray, right: np.ndarray, bound: np.ndarray) -> bool:
        # Equal infinities have no difference.
        with np.errstate(invalid="ignore"):
            return bool(np.all((left == right) | (np.abs(left * 1.0 - right) <= bound)))

    rows = agree(stack[:, i], stack[:, j][:, order], bounds[:, i])
    return rows and agree(stack[:, :, i], stack[:, :, j][:, order], bounds[:, :, i])
