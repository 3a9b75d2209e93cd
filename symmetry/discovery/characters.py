r"""How values change when the weights are scaled: characters over Q and over GF(2).

Multiply every weight by a power of one number per member of an axis class, ``w'[.., j, ..] = d_j^e w[.., j, ..]``. Each
value of the program then has, for every occurrence of an atom in its dimensions and once for the value as a whole, an
exponent that is a linear form in the unknown exponents ``e`` of the weights. Rules emit linear equations between forms;
what solves all of them is a symmetry. Positive scales need exponents in Q, signs only their parity, GF(2).

The constant 0 takes any exponent, for scales so does an infinity: a *wildcard*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
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
ZERO = Fraction(0)


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
    characters: dict[Value, Character] = field(default_factory=dict)
    hidden: dict[int, Form] = field(default_factory=dict)

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
        free = (unknown for unknown in range(len(self.names)) if unknown not in self.solved)
        vectors = {unknown: {unknown: Fraction(1)} for unknown in free}
        for pivot in self.solved:
            for unknown, value in self._resolve(pivot).items():
                vectors[unknown][pivot] = value
        return [
            {self.names[number]: value for number, value in _integers(vector).items()} for vector in vectors.values()
        ]

    def hide(self, start: int) -> None:
        """Take the unknowns of loops, which came after those of the sites, out of the solutions.

        A solved unknown is a form in earlier ones, so what remains are all solutions for the sites, and no others.
        """
        self.hidden = {unknown: self._reduce({unknown: Fraction(1)}) for unknown in range(start, len(self.names))}
        del self.names[start:]
        for unknown in self.hidden:
            self.solved.pop(unknown, None)

    def evaluate(self, solution: Mapping[tuple[str, Key], int]) -> Callable[[Value, Key], Fraction]:
        """The exponent of every value under a solution; zero where a loop leaves it open."""
        exponents = {self._numbers[name]: Fraction(value) for name, value in solution.items()}

        def of_form(form: Form) -> Fraction:
            terms = [
                weight * (exponents[unknown] if unknown in exponents else of_hidden(unknown))
                for unknown, weight in form.items()
                if unknown in exponents or unknown in self.hidden
            ]
            return self.value(sum(terms, ZERO)) if terms else ZERO

        @cache
        def of_hidden(unknown: int) -> Fraction:
            form = self.hidden[unknown]
            return ZERO if unknown in form else of_form(form)

        return lambda value, key: of_form(self.characters.get(value, INVARIANT).get(key, {}))

    @cached_property
    def _numbers(self) -> Mapping[tuple[str, Key], int]:
        """The unknown of each name, for when there are no more to come."""
        return {name: unknown for unknown, name in enumerate(self.names)}

    def _demand(self, form: Form) -> None:
        """Add ``form = 0``; a solved unknown is kept as a form in earlier ones, some of them perhaps solved since."""
        form = self._reduce({unknown: self.value(value) for unknown, value in form.items() if self.value(value)})
        if not form:
            return
        # The last unknown is eliminated, so that generators are led by the sites that come first.
        pivot = max(form)
        self.solved[pivot] = {
            unknown: self.value(-value / form[pivot]) for unknown, value in form.items() if unknown != pivot
        }

    def _reduce(self, form: Form) -> Form:
        """The form in free unknowns."""
        for unknown in self.solved.keys() & form.keys():
            self._resolve(unknown)
        return self._substitute(form)

    def _resolve(self, unknown: int) -> Form:
        """A solved unknown as a form in free ones, remembered: later look-ups are short, as in union-find."""
        pending = [unknown]
        while pending:
            form = self.solved[pending[-1]]
            behind = [other for other in form if not self.solved.keys().isdisjoint(self.solved.get(other, ()))]
            if behind:
                pending += behind
            else:
                self.solved[pending.pop()] = self._substitute(form)
        return self.solved[unknown]

    def _substitute(self, form: Form) -> Form:
        """The form with every solved unknown replaced, once."""
        if self.solved.keys().isdisjoint(form):
            return form
        result: Form = {}
        for unknown, value in form.items():
            result = self._add(result, self.solved.get(unknown, {unknown: Fraction(1)}), value)
        return result

    def _add(self, left: Form, right: Form, weight: Fraction) -> Form:
        if not right:
            return left
        total = dict(left)
        for unknown, value in right.items():
            total[unknown] = self.value(total.get(unknown, Fraction(0)) + weight * value)
        return {unknown: value for unknown, value in total.items() if value}

    def value(self, value: Fraction) -> Fraction:
        """The exponent itself, for signs its parity."""
        return value if self.kind == "scale" else Fraction(value % 2)


def independent[K: Hashable](
    vectors: Sequence[Mapping[K, int]], known: Sequence[Mapping[K, int]], kind: Kind
) -> list[int]:
    """Numbers of the ``vectors`` that are not spanned by ``known`` and the vectors before them."""
    every = [*_connected(vectors, known), *vectors]
    first = len(every) - len(vectors)
    names = {name: number for number, name in enumerate(dict.fromkeys(name for vector in every for name in vector))}
    system = System(kind, {})
    kept = []
    for number, vector in enumerate(every):
        before = len(system.solved)
        system.zero({None: {names[name]: Fraction(value) for name, value in vector.items()}})
        if len(system.solved) > before and number >= first:
            kept.append(number - first)
    return kept


def _connected[K: Hashable](
    vectors: Sequence[Mapping[K, int]], known: Sequence[Mapping[K, int]]
) -> list[Mapping[K, int]]:
    """Those of ``known`` that share names with the vectors, perhaps through others: no others can matter to them."""
    containing: dict[K, list[int]] = {}
    for number, vector in enumerate(known):
        for name in vector:
            containing.setdefault(name, []).append(number)
    reached: set[int] = set()
    names = [name for vector in vectors for name in vector]
    while names:
        new = [number for number in containing.pop(names.pop(), ()) if number not in reached]
        reached.update(new)
        names += [name for number in new for name in known[number]]
    return [known[number] for number in sorted(reached)]


def _integers(vector: Mapping[int, Fraction]) -> dict[int, int]:
    """The primitive integer vector in the same direction, its first entry positive."""
    scale = math.lcm(*(value.denominator for value in vector.values()))
    whole = {unknown: int(vector[unknown] * scale) for unknown in sorted(vector)}
    divisor = math.gcd(*whole.values()) * (1 if next(iter(whole.values())) > 0 else -1)
    return {unknown: value // divisor for unknown, value in whole.items()}
