"""Names of array dimensions, from the axis classes of a symmetry group.

A dim carries the name of its axis class (``hidden_0``) only where it is that whole class and the array has no such dim
yet: xarray pads arrays of different length under one dim with NaN and refuses a dim twice in one array. A second axis
of the class is ``hidden_0__in``; an axis that holds ``m`` positions a member (the gates of a recurrent kernel, a
flattened feature map) is ``hidden_0__x4``. Every other axis has ArviZ's default name, ``site_dim_0``. The class of
every axis also stands in the variable's ``axes`` attribute.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from symmetry import Symmetries, SymmetryGroup

_RESERVED = frozenset({"chain", "draw", "sample"})


def axis_classes(symmetries: Symmetries | None, sites: Mapping[str, tuple[int, ...]]) -> dict[str, list[str | None]]:
    """The axis class of every axis of every site, or None; the posterior's group speaks before the likelihood's."""
    classes: dict[str, list[str | None]] = {site: [None] * len(shape) for site, shape in sites.items()}
    for group in _groups(symmetries):
        for site in classes:
            of_slots = _slot_classes(group, site, len(classes[site]))
            whole = group.axes.get(site, (None,) * len(classes[site]))
            classes[site] = [
                old or name or slot for old, name, slot in zip(classes[site], whole, of_slots, strict=True)
            ]
    return classes


def dim_names(
    symmetries: Symmetries | None, sites: Mapping[str, tuple[int, ...]], variables: Collection[str] = ()
) -> dict[str, list[str]]:
    """One dim name an axis of every site.

    Args:
        symmetries: The groups whose axis classes give the names; without them all names are ArviZ's defaults.
        sites: Site name to shape, without chain and draw.
        variables: Names of all variables of the tree, which no dim may bear.

    Example:
        >>> dim_names(None, {"kernel": (2, 3)})
        {'kernel': ['kernel_dim_0', 'kernel_dim_1']}
    """
    classes = axis_classes(symmetries, sites)
    lengths = {factor.axis: factor.size for group in _groups(symmetries) for factor in group.factors}
    taken = _RESERVED | set(variables) | set(sites)
    result = {}
    for site, shape in sites.items():
        names: list[str] = []
        for axis, (size, axis_class) in enumerate(zip(shape, classes[site], strict=True)):
            name = f"{site}_dim_{axis}"
            if axis_class is not None:
                plain = f"{axis_class}__axis" if axis_class in taken else axis_class
                whole = size == lengths.get(axis_class, size)
                name = _unused(plain if whole else f"{plain}__x{size / lengths[axis_class]:g}", names)
            names.append(name)
        result[site] = names
    return result


def _groups(symmetries: Symmetries | None) -> tuple[SymmetryGroup, ...]:
    if symmetries is None:
        return ()
    return tuple(group for group in (symmetries.posterior, symmetries.likelihood) if group is not None)


def _slot_classes(group: SymmetryGroup, site: str, num_axes: int) -> list[str | None]:
    """Classes of axes that slots cover; None where two classes share an axis or none is there."""
    found: list[set[str]] = [set() for _ in range(num_axes)]
    for factor in group.factors:
        for slot in factor.slots:
            if slot.site == site and slot.axis is not None:
                found[slot.axis].add(factor.axis)
    return [names.pop() if len(names) == 1 else None for names in found]


def _unused(name: str, names: list[str]) -> str:
    if name not in names:
        return name
    candidates = (f"{name}__in" + (f"_{k}" if k else "") for k in range(len(names) + 1))
    return next(candidate for candidate in candidates if candidate not in names)
