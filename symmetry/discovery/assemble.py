"""From axis trees and characters to a `SymmetryGroup`: slots, factors, names, and the reasons for what is not free."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..factor import Factor, Kind, Pin, Slot
from ..group import SymmetryGroup
from .axes import Axis, find, occurrences, pin
from .characters import System
from .fibres import Candidate, fibre_of, settle
from .generators import (
    AxisClass,
    Generator,
    find_classes,
    find_generators,
    independent_whole_arrays,
    slots,
    without_implied,
)
from .linear import is_linear, may_rotate
from .program import Program, Value
from .rules.registry import Dims
from .sightings import Scene, watch

UNUSED = "not used"
HANDED_ON = (
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "reshape",
    "slice",
    "squeeze",
    "transpose",
)
TOLD_APART = "positions told apart by slices or concatenation"


@dataclass(frozen=True)
class Part:
    """A factor in the making: its class, what its generator does to it (None for a permutation), and its fibre."""

    kind: Kind
    cls: AxisClass
    generator: Generator | None = None
    fibre: frozenset[Axis] = frozenset()


def assemble(
    program: Program,
    sites: Mapping[str, tuple[int, ...]],
    axes: Mapping[Value, Dims],
    systems: Sequence[System],
) -> tuple[SymmetryGroup, frozenset[str]]:
    """The group that the passes found, not yet certified, and the names of classes on which rotations may act.

    Args:
        program: The program that was analysed.
        sites: All sites with their shapes, in order.
        axes: From `passes.identify_axes`.
        systems: From `passes.find_characters`, for signs and for scales.

    Returns:
        The group, whose axis classes are named after the first site that carries them, and names of such classes.
    """
    used = {site: axes[value] for site, value in program.leaves.items() if program.used(value)}
    classes = find_classes(used, sites)
    generators = find_generators(systems, classes, used)
    diagonal = [generator for generator in generators if generator.axis_class is not None]
    moved = {id(generator.axis_class) for generator in diagonal}
    free = [cls for cls in classes if not cls.atom.pinned or id(cls) in moved]
    scenes = watch(program, axes, [cls.atom for cls in free])
    free = [cls for cls in free if not _is_unread(cls, scenes)]
    diagonal = [generator for generator in diagonal if generator.axis_class in free]
    parts = _parts(free, diagonal, scenes, systems)
    parts = _upgrade(_independent(parts, used), free, diagonal, scenes, systems)
    names = _name_classes(classes, free, {axis for part in parts for axis in part.fibre})
    depth = {part.cls.atom: len(part.fibre) for part in parts if part.generator is None}
    outer_first = sorted((cls.atom for cls in classes), key=lambda axis: depth.get(axis, 0))
    factors: list[Factor] = []
    for part in parts:
        fibre = [axis for axis in outer_first if axis in part.fibre]
        factors.append(_factor(part, fibre, used, names, factors))
    taken = set(names.values())
    for generator in independent_whole_arrays([one for one in generators if one.axis_class is None], diagonal, used):
        whole = tuple(Slot(site, None, 1, exponent=power) for (site, _), power in generator.exponents.items())
        axis = _unique(_prefix(whole[0].site, None), taken)
        taken.add(axis)
        factors.append(Factor(_factor_name(axis, generator.kind, factors), generator.kind, axis, 1, whole))
    turning = frozenset(names[id(cls.atom)] for cls in free if may_rotate(scenes[cls.atom]))
    return SymmetryGroup(sites, tuple(factors), _pins(sites, used), _dim_names(sites, used, names)), turning


def _is_unread(cls: AxisClass, scenes: Mapping[Axis, Sequence[Scene]]) -> bool:
    """Whether a class is only ever handed on, as the rows of a table behind those that are looked up; then pin it."""
    if any(scene.equation.primitive not in HANDED_ON for scene in scenes[cls.atom]):
        return False
    pin(cls.atom, UNUSED)
    return True


def _parts(
    free: Sequence[AxisClass],
    diagonal: Sequence[Generator],
    scenes: Mapping[Axis, Sequence[Scene]],
    systems: Sequence[System],
) -> list[Part]:
    """Permutations, signs and scales, class by class, with their fibres."""
    exponents = {system.kind: system.evaluate for system in systems}
    parts: list[Part] = []
    for cls in free:
        seen = scenes[cls.atom]
        if not cls.atom.pinned:
            parts.append(Part("permutation", cls, fibre=fibre_of(seen, lambda sighting: sighting.varies)))
        for generator in diagonal:
            if generator.axis_class is cls:
                power = exponents[generator.kind](generator.exponents)
                fibre = fibre_of(seen, lambda sighting, power=power: power(sighting.value, sighting.key) != 0)
                parts.append(Part(generator.kind, cls, generator, fibre))
    settled = settle([Candidate(part.cls.atom, part.fibre, part.generator is None) for part in parts])
    return [replace(part, fibre=fibre) for part, fibre in zip(parts, settled, strict=True)]


def _independent(parts: Sequence[Part], used: Mapping[str, Dims]) -> list[Part]:
    """Without scales and signs that follow from others."""
    diagonal = [part for part in parts if part.generator is not None]
    generators = [part.generator for part in diagonal if part.generator is not None]
    kept = without_implied(generators, [part.fibre for part in diagonal], used)
    implied = {id(part) for number, part in enumerate(diagonal) if number not in kept}
    return [part for part in parts if id(part) not in implied]


def _upgrade(
    parts: Sequence[Part],
    free: Sequence[AxisClass],
    diagonal: Sequence[Generator],
    scenes: Mapping[Axis, Sequence[Scene]],
    systems: Sequence[System],
) -> list[Part]:
    """Permutations, signs and scales of classes that are only used linearly become matrices."""
    (evaluate,) = (system.evaluate for system in systems if system.kind == "scale")
    fibres = {axis for part in parts for axis in part.fibre}
    linear: dict[Axis, Generator] = {}
    for cls in free:
        own = [generator for generator in diagonal if generator.axis_class is cls]
        scales = [generator for generator in own if generator.kind == "scale"]
        if any(cls.atom.colours) or cls.atom in fibres or len(scales) != 1 or len(own) != 2:
            continue
        power = evaluate(scales[0].exponents)
        if is_linear(scenes[cls.atom], lambda sighting, power=power: power(sighting.value, sighting.key)):
            linear[cls.atom] = scales[0]
    return [
        replace(part, kind="linear", generator=linear[part.cls.atom]) if part.cls.atom in linear else part
        for part in parts
        if part.cls.atom not in linear or part.generator is None
    ]


def _factor(
    part: Part, fibre: Sequence[Axis], used: Mapping[str, Dims], names: Mapping[int, str], before: Sequence[Factor]
) -> Factor:
    atom = part.cls.atom
    axis = names[id(atom)]
    exponents = None if part.generator is None else part.generator.exponents
    return Factor(
        _factor_name(axis, part.kind, before),
        part.kind,
        axis,
        atom.size,
        slots(part.cls, used, exponents, fibre),
        atom.colours if part.kind == "permutation" and any(atom.colours) else None,
        fibre=tuple(names[id(outer)] for outer in fibre),
        fibre_shape=tuple(outer.size for outer in fibre),
    )


def _factor_name(axis: str, kind: Kind, before: Sequence[Factor]) -> str:
    """Class and kind; the second factor of a kind on an axis class gets a number."""
    return _unique(f"{axis}:{kind}", {factor.name for factor in before})


def _name_classes(classes: Sequence[AxisClass], free: Sequence[AxisClass], fibres: Collection[Axis]) -> dict[int, str]:
    """Names of the classes that are free, a fibre or shared by several arrays; free ones choose first."""
    names: dict[int, str] = {}
    outer = [cls for cls in classes if cls.atom in fibres]
    shared = [cls for cls in classes if len({place.site for place in cls.places}) > 1]
    for cls in [*free, *outer, *shared]:
        if id(cls.atom) not in names:
            first = cls.places[0]
            names[id(cls.atom)] = _unique(_prefix(first.site, first.key[0]), set(names.values()))
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
                pins.append(Pin(site, dim, UNUSED))
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
