r"""How values change when the weights are scaled: characters over Q and over GF(2).

Multiply every weight by a power of one number per member of an axis class, ``w'[.., j, ..] = d_j^e w[.., j, ..]``. Each
value of the program then has, for every occurrence of an atom in its dimensions and once for the value as a whole, an
exponent that is a linear form in the unknown exponents ``e`` of the weights. Rules emit linear equations between forms;
what solves all of them is a symmetry. Positive scales need exponents in Q, signs only their parity, GF(2).

The constant 0 takes any exponent, for scales so does an infinity: a *wildcard*.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

from .axes import Axis, atoms
from .program import Value

# unknown -> coefficient; the empty form is zero.
Form = Mapping[int, Fraction]
# (dimension, number of the atom in it) or None for the value as a whole -> form. Absent keys are zero forms.
Key = tuple[int, int] | None
Character = Mapping[Key, Form]
INVARIANT: Character = MappingProxyType({})
# Compared by identity.
WILDCARD: Character = MappingProxyType({})
Kind = Literal["scale", "sign"]


@dataclass(eq=False)
class System:
    """Linear equations over the exponents of the weights, and what rules need to emit them.

    Args:
        kind: ``"scale"`` for exponents in Q, ``"sign"`` for GF(2).
        axes: Axis trees of every value, from the pass over axes.
    """

    kind: Kind
    axes: Mapping[Value, tuple[Axis, ...]]
    names: list[tuple[str, Key]] = field(default_factory=list)
    solved: dict[int, Form] = field(default_factory=dict)

    def slots(self, value: Value) -> tuple[tuple[Axis, ...], ...]:
        """Per dimension the atoms of its tree."""
        return tuple(atoms(axis) for axis in self.axes[value])

    def leaf(self, site: str, value: Value) -> Character:
        """The character of a site: a fresh unknown for the whole and one for each atom occurrence."""
        keys = [None, *((dim, number) for dim, found in enumerate(self.slots(value)) for number in range(len(found)))]
        character = {key: {len(self.names) + number: Fraction(1)} for number, key in enumerate(keys)}
        self.names += [(site, key) for key in keys]
        return character

    def combine(self, left: Character, right: Character, weight: int = 1) -> Character:
        """Exponents of a product, ``left + weight * right``; the wildcard absorbs."""
        if left is WILDCARD or right is WILDCARD:
            return WILDCARD
        keys = dict.fromkeys((*left, *right))
        return {key: self._add(left.get(key, {}), right.get(key, {}), Fraction(weight)) for key in keys}

    def power(self, character: Character, exponent: Fraction) -> Character:
        """Exponents of ``value ** exponent``."""
        if character is WILDCARD:
            return WILDCARD
        return {key: self._add({}, form, exponent) for key, form in character.items()}

    def equal(self, *characters: Character) -> Character:
        """Demand equal exponents of everything that is no wildcard; that common character."""
        rigid = [character for character in characters if character is not WILDCARD]
        for other in rigid[1:]:
            self.zero(self.combine(rigid[0], other, -1))
        return rigid[0] if rigid else WILDCARD

    def zero(self, character: Character, keys: Iterable[Key] | None = None) -> None:
        """Demand exponent zero at these keys, everywhere by default."""
        if character is not WILDCARD:
            for key in character if keys is None else keys:
                self._demand(character.get(key, {}))

    def solutions(self) -> list[dict[tuple[str, Key], int]]:
        """A basis of integer exponents that solve all equations, with the first nonzero exponent positive."""
        free = [unknown for unknown in range(len(self.names)) if unknown not in self.solved]
        basis = []
        for unknown in free:
            vector = {unknown: Fraction(1)}
            vector |= {pivot: form[unknown] for pivot, form in self.solved.items() if form.get(unknown, Fraction(0))}
            basis.append({self.names[number]: value for number, value in _integers(vector).items()})
        return basis

    def _demand(self, form: Form) -> None:
        """Add ``form = 0``; solved unknowns are kept as forms in the free ones."""
        form = self._reduce(form)
        if not form:
            return
        # The last unknown is eliminated, so that generators are led by the sites that come first.
        pivot = max(form)
        rest = {unknown: self._value(-value / form[pivot]) for unknown, value in form.items() if unknown != pivot}
        for known, other in self.solved.items():
            if pivot in other:
                self.solved[known] = self._add({u: v for u, v in other.items() if u != pivot}, rest, other[pivot])
        self.solved[pivot] = rest

    def _reduce(self, form: Form) -> Form:
        result: Form = {}
        for unknown, value in form.items():
            result = self._add(result, self.solved.get(unknown, {unknown: Fraction(1)}), value)
        return result

    def _add(self, left: Form, right: Form, weight: Fraction) -> Form:
        if not right:
            return left
        total = dict(left)
        for unknown, value in right.items():
            total[unknown] = self._value(total.get(unknown, Fraction(0)) + weight * value)
        return {unknown: value for unknown, value in total.items() if value}

    def _value(self, value: Fraction) -> Fraction:
        return value if self.kind == "scale" else Fraction(value % 2)


def independent[K: Hashable](
    vectors: Sequence[Mapping[K, int]], known: Sequence[Mapping[K, int]], kind: Kind
) -> list[int]:
    """Numbers of the ``vectors`` that are not spanned by ``known`` and the vectors before them."""
    names = {name: number for number, name in enumerate(dict.fromkeys(name for v in (*known, *vectors) for name in v))}
    system = System(kind, {})
    kept = []
    for number, vector in enumerate((*known, *vectors)):
        before = len(system.solved)
        system.zero({None: {names[name]: system._value(Fraction(value)) for name, value in vector.items() if value}})
        if len(system.solved) > before and number >= len(known):
            kept.append(number - len(known))
    return kept


def _integers(vector: Mapping[int, Fraction]) -> dict[int, int]:
    """The primitive integer vector in the same direction, its first entry positive."""
    scale = math.lcm(*(value.denominator for value in vector.values()))
    whole = {unknown: int(vector[unknown] * scale) for unknown in sorted(vector)}
    divisor = math.gcd(*whole.values()) * (1 if next(iter(whole.values())) > 0 else -1)
    return {unknown: value // divisor for unknown, value in whole.items()}
