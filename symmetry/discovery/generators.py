"""Axis classes with their places in the weights, and the independent scales and signs on them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from ..factor import Slot
from .axes import Axis, Occurrence, occurrences
from .characters import Key, Kind, System, independent
from .rules.registry import Dims
from .sightings import across

type Exponents = Mapping[tuple[str, Key], int]


@dataclass(frozen=True)
class Place:
    """One occurrence of an axis class in a dimension of a site.

    Args:
        site: The site.
        key: Dimension, and number of the atom in it.
        occurrence: The positions that it governs.
        partners: The classes across it, with their keys.
    """

    site: str
    key: tuple[int, int]
    occurrence: Occurrence
    partners: Mapping[Axis, tuple[int, int]]


@dataclass(frozen=True)
class AxisClass:
    """One atom and every place where it occurs in the weights."""

    atom: Axis
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Generator:
    """One independent scale or sign symmetry: nonzero exponents, on one axis class or (None) on whole arrays."""

    kind: Kind
    exponents: Exponents
    axis_class: AxisClass | None


def find_classes(used: Mapping[str, Dims], shapes: Mapping[str, tuple[int, ...]]) -> list[AxisClass]:
    """Axis classes in the order in which the sites carry them."""
    places: dict[Axis, list[Place]] = {}
    for site, dims in used.items():
        for dim, axis in enumerate(dims):
            for number, occurrence in enumerate(occurrences(axis)):
                partners = across(dims, shapes[site], dim, occurrence)
                places.setdefault(occurrence.atom, []).append(Place(site, (dim, number), occurrence, partners))
    return [AxisClass(atom, tuple(found)) for atom, found in places.items()]


def find_generators(systems: Sequence[System], classes: Sequence[AxisClass], used: Collection[str]) -> list[Generator]:
    """The solutions of the systems that act on sites in use."""
    owner: dict[tuple[str, Key], AxisClass] = {(place.site, place.key): cls for cls in classes for place in cls.places}
    return [
        Generator(system.kind, exponents, owner.get(next(iter(exponents))))
        for system in systems
        for exponents in system.solutions()
        if all(site in used for site, _ in exponents)
    ]


def slots(
    cls: AxisClass, used: Mapping[str, Dims], exponents: Exponents | None = None, fibre: Sequence[Axis] = ()
) -> tuple[Slot, ...]:
    """The places of a class as slots; with exponents, those that have one."""
    result = []
    for place in cls.places:
        exponent = 1 if exponents is None else exponents.get((place.site, place.key), 0)
        if exponent:
            across_it = tuple(_slot(place.site, used, place.partners[axis]) for axis in fibre)
            result.append(_slot(place.site, used, place.key, exponent, across_it))
    return tuple(result)


def without_implied(
    generators: Sequence[Generator], fibres: Sequence[frozenset[Axis]], used: Mapping[str, Dims]
) -> list[int]:
    """Numbers of the generators that are no products of others which vary over their class.

    A scale of every head follows from scales of the units of every head, all the same within a head.

    Args:
        generators: On axis classes.
        fibres: The fibre of each.
        used: Axes of all sites in use.
    """
    kept = list(range(len(generators)))
    for number in reversed(range(len(generators))):
        generator = generators[number]
        assert generator.axis_class is not None
        atom = generator.axis_class.atom
        others = [
            _induced(generators[other], used, atom)
            for other in kept
            if other != number
            and generators[other].kind == generator.kind
            and {atom, *fibres[number]} <= fibres[other] | {_atom(generators[other])}
        ]
        if not independent([_induced(generator, used, atom)], others, generator.kind):
            kept.remove(number)
    return kept


def independent_whole_arrays(
    whole: Sequence[Generator], others: Sequence[Generator], used: Mapping[str, Dims]
) -> list[Generator]:
    """Generators that multiply whole arrays and are no product of those that act member by member."""
    kept: list[Generator] = []
    kinds: tuple[Kind, ...] = ("sign", "scale")
    for kind in kinds:
        known = [_induced(generator, used, None) for generator in others if generator.kind == kind]
        own = [generator for generator in whole if generator.kind == kind]
        vectors = [_induced(generator, used, None) for generator in own]
        kept += [own[number] for number in independent(vectors, known, kind)]
    return kept


def _induced(generator: Generator, used: Mapping[str, Dims], onto: Axis | None) -> dict[Hashable, int]:
    """What a generator does if all its members that lie across one member h of ``onto`` get one number ``u_h``.

    The exponents of ``u_h`` are ``c + a[i] + b[j] + ..`` along the dimensions of a site. Kept are ``c``, the sum at
    the origin, and the differences between neighbours along each dimension, which are zero but at ends of slots.
    """
    total: dict[Hashable, int] = {}

    def add(name: Hashable, value: int) -> None:
        total[name] = total.get(name, 0) + value

    for (site, key), exponent in generator.exponents.items():
        if key is None:
            add((site, None), exponent)
            continue
        dim, number = key
        found = occurrences(used[site][dim])
        own = found[number]
        where = (
            key if own.atom is onto or onto is None else across(used[site], _lengths(used[site]), dim, own).get(onto)
        )
        if where is None:
            return {}
        name = site, None if onto is None else where
        length = own.outer * own.atom.size * own.stride
        # Along its own dimension a member of ``onto`` is one position or a block of the same range: no ends there.
        start, end = (
            (0, used[site][dim].size) if onto is not None and where[0] == dim else (own.offset, own.offset + length)
        )
        if start == 0:
            add(name, exponent)
        else:
            add((*name, dim, start), exponent)
        if end < used[site][dim].size:
            add((*name, dim, end), -exponent)
    return {name: value for name, value in total.items() if value}


def _lengths(dims: Dims) -> tuple[int, ...]:
    return tuple(axis.size for axis in dims)


def _atom(generator: Generator) -> Axis:
    assert generator.axis_class is not None
    return generator.axis_class.atom


def _slot(
    site: str, used: Mapping[str, Dims], key: tuple[int, int], exponent: int = 1, fibre: tuple[Slot, ...] = ()
) -> Slot:
    where = occurrences(used[site][key[0]])[key[1]]
    return Slot(site, key[0], where.atom.size, where.offset, where.stride, where.outer, exponent, fibre)
