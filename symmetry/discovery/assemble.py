"""From axis trees and characters to a `SymmetryGroup`: slots, factors, names, and the reasons for what is not free."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..group import Factor, Pin, Slot, SymmetryGroup
from .axes import Axis, Occurrence, find, occurrences
from .characters import Key, Kind, System, independent
from .program import Program, Value
from .rules.registry import Dims

TOLD_APART = "positions told apart by slices or concatenation"


@dataclass(frozen=True)
class Place:
    """One occurrence of an axis class in a dimension of a site; ``number`` counts the atoms of that dimension."""

    site: str
    dim: int
    number: int
    occurrence: Occurrence


@dataclass(frozen=True)
class AxisClass:
    """One atom and every place where it occurs in the weights."""

    atom: Axis
    places: tuple[Place, ...]

    def slots(self, exponents: Mapping[tuple[str, Key], int] | None = None) -> tuple[Slot, ...]:
        """The places as slots; with exponents, those that have one."""
        slots = []
        for place in self.places:
            exponent = 1 if exponents is None else exponents.get((place.site, (place.dim, place.number)), 0)
            where = place.occurrence
            if exponent:
                slots.append(
                    Slot(place.site, place.dim, self.atom.size, where.offset, where.stride, where.outer, exponent)
                )
        return tuple(slots)


@dataclass(frozen=True)
class Generator:
    """One independent scale or sign symmetry: nonzero exponents, on one axis class or (None) on whole arrays."""

    kind: Kind
    exponents: Mapping[tuple[str, Key], int]
    axis_class: AxisClass | None


def assemble(
    program: Program,
    sites: Mapping[str, tuple[int, ...]],
    axes: Mapping[Value, Dims],
    systems: Sequence[System],
) -> SymmetryGroup:
    """The group that the passes found, not yet certified.

    Args:
        program: The program that was analysed.
        sites: All sites with their shapes, in order.
        axes: From `passes.identify_axes`.
        systems: From `passes.find_characters`, for signs and for scales.

    Returns:
        The group; axis classes are named after the first site that carries them.
    """
    used = {site: axes[value] for site, value in program.leaves.items() if program.used(value)}
    classes = _classes(used)
    generators = _generators(systems, classes, used)
    diagonal = [generator for generator in generators if generator.axis_class is not None]
    moved = {id(generator.axis_class) for generator in diagonal}
    free = [cls for cls in classes if not cls.atom.pinned or id(cls) in moved]
    names = _name_classes(classes, free)
    factors: list[Factor] = []
    for cls in free:
        axis, size = names[id(cls.atom)], cls.atom.size
        if not cls.atom.pinned:
            colours = cls.atom.colours if any(cls.atom.colours) else None
            factors.append(Factor(f"{axis}:permutation", "permutation", axis, size, cls.slots(), colours))
        for generator in diagonal:
            if generator.axis_class is cls:
                factors.append(_diagonal(generator.kind, axis, size, cls.slots(generator.exponents), factors))
    taken = set(names.values())
    for generator in _whole_arrays(generators, diagonal, used):
        slots = tuple(Slot(site, None, 1, exponent=power) for (site, _), power in generator.exponents.items())
        axis = _unique(_prefix(slots[0].site, None), taken)
        taken.add(axis)
        factors.append(_diagonal(generator.kind, axis, 1, slots, factors))
    return SymmetryGroup(sites, tuple(factors), _pins(sites, used), _dim_names(sites, used, names))


def _classes(used: Mapping[str, Dims]) -> list[AxisClass]:
    """Axis classes in the order in which the sites carry them."""
    places: dict[Axis, list[Place]] = {}
    for site, dims in used.items():
        for dim, axis in enumerate(dims):
            for number, occurrence in enumerate(occurrences(axis)):
                places.setdefault(occurrence.atom, []).append(Place(site, dim, number, occurrence))
    return [AxisClass(atom, tuple(found)) for atom, found in places.items()]


def _generators(systems: Sequence[System], classes: Sequence[AxisClass], used: Mapping[str, Dims]) -> list[Generator]:
    """The solutions of the systems that act on sites in use."""
    owner: dict[tuple[str, Key], AxisClass] = {
        (place.site, (place.dim, place.number)): cls for cls in classes for place in cls.places
    }
    return [
        Generator(system.kind, exponents, owner.get(next(iter(exponents))))
        for system in systems
        for exponents in system.solutions()
        if all(site in used for site, _ in exponents)
    ]


def _whole_arrays(
    generators: Sequence[Generator], diagonal: Sequence[Generator], used: Mapping[str, Dims]
) -> list[Generator]:
    """Generators that multiply whole arrays and are no product of those that act member by member."""
    kept = []
    kinds: tuple[Kind, ...] = ("sign", "scale")
    for kind in kinds:
        implied = [_induced(generator, used) for generator in diagonal if generator.kind == kind]
        whole = [one for one in generators if one.kind == kind and one.axis_class is None]
        vectors = [{site: power for (site, _), power in one.exponents.items()} for one in whole]
        kept += [whole[number] for number in independent(vectors, [vector for vector in implied if vector], kind)]
    return kept


def _induced(generator: Generator, used: Mapping[str, Dims]) -> dict[str, int]:
    """What a generator does to whole arrays when all members get one number; empty where that is no single power."""
    powers: dict[str, int] = {}
    for site, dims in used.items():
        for dim, axis in enumerate(dims):
            along = np.zeros(axis.size, int)
            for number, place in enumerate(occurrences(axis)):
                block = place.atom.size * place.stride * place.outer
                along[place.offset : place.offset + block] += generator.exponents.get((site, (dim, number)), 0)
            if along.any():
                if along.min() != along.max():
                    return {}
                powers[site] = powers.get(site, 0) + int(along[0])
    return powers


def _diagonal(kind: Kind, axis: str, size: int, slots: tuple[Slot, ...], before: Sequence[Factor]) -> Factor:
    """A sign or scale factor; a second one of its kind on an axis class gets a number."""
    return Factor(_unique(f"{axis}:{kind}", {factor.name for factor in before}), kind, axis, size, slots)


def _name_classes(classes: Sequence[AxisClass], free: Sequence[AxisClass]) -> dict[int, str]:
    """Names of the classes that are free or shared by several arrays; free ones choose first."""
    names: dict[int, str] = {}
    shared = [cls for cls in classes if len({place.site for place in cls.places}) > 1]
    for cls in [*free, *shared]:
        if id(cls.atom) not in names:
            first = cls.places[0]
            names[id(cls.atom)] = _unique(_prefix(first.site, first.dim), set(names.values()))
    return names


def _prefix(site: str, dim: int | None) -> str:
    """The module of a dotted site name; otherwise ArviZ's default name of the dimension."""
    if "." in site:
        return site.rpartition(".")[0]
    return site if dim is None else f"{site}_dim_{dim}"


def _unique(name: str, taken: Collection[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _pins(sites: Mapping[str, tuple[int, ...]], used: Mapping[str, Dims]) -> tuple[Pin, ...]:
    """Every axis without a free atom, and why."""
    pins = []
    for site, shape in sites.items():
        for dim, size in enumerate(shape):
            if size == 1:
                continue
            if site not in used:
                pins.append(Pin(site, dim, "not used"))
                continue
            found = [place.atom for place in occurrences(used[site][dim])]
            if all(atom.pinned for atom in found):
                reasons = dict.fromkeys(reason for atom in found for reason in atom.reasons)
                pins.append(Pin(site, dim, "; ".join(reasons) or TOLD_APART))
    return tuple(pins)


def _dim_names(
    sites: Mapping[str, tuple[int, ...]], used: Mapping[str, Dims], names: Mapping[int, str]
) -> dict[str, tuple[str | None, ...]]:
    """The class of each dimension that is one whole class."""
    return {
        site: tuple(names.get(id(find(axis))) for axis in used[site]) if site in used else (None,) * len(shape)
        for site, shape in sites.items()
    }
