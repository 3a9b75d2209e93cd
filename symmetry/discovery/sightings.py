r"""Where the classes of a program are seen, equation by equation, and what lies across them there.

An equation treats its dimensions like the indices of ``y[b, i] = sum_k x[b, k] w[b, k, i]``: some it sums over, some it
runs along with. Which ones is found by asking its axis rule once more, about axes that nothing is known of: those that
the rule makes one, in operands and output, carry one *label*, one index. Through a loop's body runs the index of its
steps as well, though no dimension shows it.

For every occurrence of a class g in a value, `Sighting.partners` names the classes H that lie across it, ``x[h, g]``,
exactly once and over all of their length, with their labels. They are what fibres are made of (`fibres.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .axes import Axis, Occurrence, atom, atoms, find, occurrences
from .numeric import is_uniform
from .program import CARRY, CLOCK, ELEMENT, STACK, STEP, Equation, Program, Value
from .rules import AXIS_RULES

# An atom of an axis that stands for an index of one equation; compared by identity.
type Label = Axis
type Labels = list[list[Label]]


@dataclass(frozen=True, eq=False)
class Sighting:
    """One occurrence of a class in a value that an equation reads or makes.

    Args:
        value: The value.
        key: Dimension, and number of the class's atom in it.
        varies: Whether the value differs along the class at all; what was merely broadcast does not.
        label: The index of the equation that runs along the class here.
        partners: The classes across it, with the labels of their indices.
    """

    value: Value
    key: tuple[int, int]
    varies: bool
    label: Label
    partners: Mapping[Axis, Label]


@dataclass(frozen=True, eq=False)
class Scene:
    """An equation and the sightings of one class in it."""

    equation: Equation
    sightings: tuple[Sighting, ...]


def watch(
    program: Program, axes: Mapping[Value, tuple[Axis, ...]], classes: Collection[Axis]
) -> dict[Axis, list[Scene]]:
    """All equations in which each of the classes is seen, in order.

    Args:
        program: The program that was analysed.
        axes: From `passes.identify_axes`, final.
        classes: Atoms.
    """
    watcher = _Watcher(axes, set(classes))
    for value in (*program.leaves.values(), *(value for _, value in program.data)):
        watcher.varying[value] = {key for key, _ in watcher.places(value)}
    scenes: dict[Axis, list[Scene]] = {cls: [] for cls in classes}
    for equation in program.equations:
        for cls, sightings in watcher.look(equation).items():
            scenes[cls].append(Scene(equation, tuple(sightings)))
    return scenes


@dataclass(frozen=True)
class _Indices:
    """What the rule of an equation says of its indices.

    Args:
        inputs: Labels of every operand; None for a constant, or where the rule has cut the trees anew.
        outputs: Labels of every output, likewise.
        known: All labels of operands.
        moving: Those along which an operand varies.
    """

    inputs: tuple[Labels | None, ...]
    outputs: tuple[Labels | None, ...]
    known: set[Label]
    moving: set[Label]

    def varies(self, label: Label, occurrence: Occurrence) -> bool:
        """Whether an output varies along an atom: as the operands do, or if the rule has made and pinned it."""
        return label in self.moving or (label not in self.known and occurrence.atom.pinned)


@dataclass(eq=False)
class _Watcher:
    """Goes through the equations in order; knows along which keys values vary, and in which loops they were made."""

    axes: Mapping[Value, tuple[Axis, ...]]
    classes: set[Axis]
    varying: dict[Value, set[tuple[int, int]]] = field(default_factory=dict)
    loops: dict[Value, tuple[Axis, ...]] = field(default_factory=dict)

    def places(self, value: Value) -> Iterator[tuple[tuple[int, int], Occurrence]]:
        """Keys and occurrences of the atoms of a value."""
        for dim, axis in enumerate(self.axes[value]):
            for number, occurrence in enumerate(occurrences(axis)):
                yield (dim, number), occurrence

    def look(self, equation: Equation) -> dict[Axis, list[Sighting]]:
        """The sightings in one equation, by class."""
        indices = self._indices(equation)
        if equation.primitive != STEP:
            self._follow(equation, indices)
        found: dict[Axis, list[Sighting]] = {}
        for value, labels in (
            *zip(equation.inputs, indices.inputs, strict=True),
            *zip(equation.outputs, indices.outputs, strict=True),
        ):
            if value.constant is None:
                for cls, sighting in self._sightings(value, labels):
                    found.setdefault(cls, []).append(sighting)
        return found

    def _indices(self, equation: Equation) -> _Indices:
        rule = AXIS_RULES.get(equation.primitive)
        if rule is None:
            return _Indices((None,) * len(equation.inputs), (None,) * len(equation.outputs), set(), set())
        copies = [self._copy(value) for value in equation.inputs]
        made = rule(equation, *copies)
        known = {label for copy in copies for axis in copy for label in atoms(axis)}
        pairs = list(zip(equation.inputs, copies, strict=True))
        moving = {label for value, copy in pairs for label in self._moving(value, copy)}
        names: dict[Label, Label] = {}
        if equation.primitive in (ELEMENT, STACK):
            # Where the dimension of the steps is seen, its index is that which runs through the body.
            steps = self.axes[equation.inputs[1]][0]
            names = dict(zip(atoms(copies[1][0]), atoms(steps), strict=True))
        inputs = tuple(self._labels(value, copy, names) for value, copy in pairs)
        outputs = tuple(self._labels(value, copy, names) for value, copy in zip(equation.outputs, made, strict=True))
        return _Indices(inputs, outputs, known, moving)

    def _labels(self, value: Value, copy: Sequence[Axis], names: Mapping[Label, Label]) -> Labels | None:
        if value.constant is not None or not self._fits(value, copy):
            return None
        return [[names.get(label, label) for label in atoms(axis)] for axis in copy]

    def _copy(self, value: Value) -> tuple[Axis, ...]:
        if value.constant is not None:
            return tuple(atom(size) for size in value.shape)
        return tuple(map(_copy, self.axes[value]))

    def _fits(self, value: Value, copy: Sequence[Axis]) -> bool:
        """Whether the rule left the trees of a value as they are."""
        return [len(atoms(axis)) for axis in copy] == [len(atoms(axis)) for axis in self.axes[value]]

    def _moving(self, value: Value, copy: Sequence[Axis]) -> Iterator[Label]:
        """The indices along which an operand varies; all of them where that is not known."""
        if value.constant is not None and is_uniform(value.constant):
            return
        known = value.constant is None and self._fits(value, copy)
        for dim, axis in enumerate(copy):
            for number, label in enumerate(atoms(axis)):
                if not known or (dim, number) in self.varying[value]:
                    yield label

    def _follow(self, equation: Equation, indices: _Indices) -> None:
        """Note along what the outputs vary, and in which loops they are."""
        steps = set(atoms(self.axes[equation.inputs[1]][0])) if equation.primitive in (ELEMENT, STACK) else set()
        loops = {axis: None for value in equation.inputs for axis in self.loops.get(value, ())}
        loops |= dict.fromkeys(steps if equation.primitive == ELEMENT else ())
        kept = tuple(axis for axis in loops if equation.primitive != STACK or axis not in steps)
        for value, labels in zip(equation.outputs, indices.outputs, strict=True):
            self.loops[value] = kept
            all_vary = labels is None or equation.primitive in (CARRY, CLOCK)
            self.varying[value] = {
                (dim, number)
                for (dim, number), occurrence in self.places(value)
                if labels is None or all_vary or indices.varies(labels[dim][number], occurrence)
            }

    def _sightings(self, value: Value, labels: Labels | None) -> Iterator[tuple[Axis, Sighting]]:
        for (dim, number), occurrence in self.places(value):
            if occurrence.atom in self.classes:
                partners = {} if labels is None else self._partners(value, labels, dim, occurrence)
                label = Axis(occurrence.atom.size) if labels is None else labels[dim][number]
                varies = (dim, number) in self.varying[value]
                yield occurrence.atom, Sighting(value, (dim, number), varies, label, partners)

    def _partners(self, value: Value, labels: Labels, dim: int, own: Occurrence) -> dict[Axis, Label]:
        loops = self.loops.get(value, ())
        shown = {occurrence.atom for _, occurrence in self.places(value)}
        there = across(self.axes[value], value.shape, dim, own)
        # In a loop over H a value that also shows H has it twice.
        partners = {axis: labels[other][number] for axis, (other, number) in there.items() if axis not in loops}
        return partners | {axis: axis for axis in loops if axis not in shown}


def across(axes: Sequence[Axis], shape: Sequence[int], dim: int, own: Occurrence) -> dict[Axis, tuple[int, int]]:
    """Key of each class that lies across an occurrence in dimension ``dim``, once and over all of its length."""
    seen: dict[Axis, list[tuple[int, int] | None]] = {}
    for other, axis in enumerate(axes):
        for number, occurrence in enumerate(occurrences(axis)):
            if other == dim and _disjoint(occurrence, own):
                continue
            whole = _span(own) if other == dim else (0, shape[other])
            seen.setdefault(occurrence.atom, []).append((other, number) if _span(occurrence) == whole else None)
    return {
        axis: found[0]
        for axis, found in seen.items()
        if axis is not own.atom and len(found) == 1 and found[0] is not None
    }


def _copy(axis: Axis) -> Axis:
    """The same tree of axes that nothing is known about."""
    axis = find(axis)
    return Axis(axis.size, axis.kind, tuple(map(_copy, axis.parts)))


def _span(occurrence: Occurrence) -> tuple[int, int]:
    """First position that the occurrence governs, and how many."""
    return occurrence.offset, occurrence.outer * occurrence.atom.size * occurrence.stride


def _disjoint(one: Occurrence, other: Occurrence) -> bool:
    (first, length), (second, size) = _span(one), _span(other)
    return first + length <= second or second + size <= first
