"""The two registries of rules, by the name of the primitive.

An *axis rule* gets the equation and, for each operand, its axes; it unifies, cuts and pins, and returns the axes of
each output. A *character rule* gets the equation, the linear system and, for each operand, its character; it emits
equations between exponents and returns the character of each output.

A primitive without an axis rule pins every axis that reaches it, one without a character rule forces every exponent
that reaches it to zero. Both are sound, so a rule is only ever needed to find more.
"""

from __future__ import annotations

from collections.abc import Callable

from ..axes import Axis
from ..characters import WILDCARD, Character, Form, Key

type Dims = tuple[Axis, ...]
type AxisRule = Callable[..., list[Dims]]
type CharacterRule = Callable[..., list[Character]]

AXIS_RULES: dict[str, AxisRule] = {}
CHARACTER_RULES: dict[str, CharacterRule] = {}


def axis_rule[F: AxisRule](*primitives: str) -> Callable[[F], F]:
    """Register ``rule(equation, *operand_axes) -> [output_axes, ..]`` for these primitives."""

    def register(rule: F) -> F:
        AXIS_RULES.update(dict.fromkeys(primitives, rule))
        return rule

    return register


def character_rule[F: CharacterRule](*primitives: str) -> Callable[[F], F]:
    """Register ``rule(equation, system, *operand_characters) -> [output_character, ..]`` for these primitives."""

    def register(rule: F) -> F:
        CHARACTER_RULES.update(dict.fromkeys(primitives, rule))
        return rule

    return register


def move(character: Character, dims: dict[int, int]) -> Character:
    """The character with its dimensions renumbered; those that ``dims`` does not name are dropped, the whole stays."""
    if character is WILDCARD:
        return WILDCARD
    moved: dict[Key, Form] = {}
    for key, form in character.items():
        if key is None:
            moved[None] = form
        elif key[0] in dims:
            moved[dims[key[0]], key[1]] = form
    return moved


def keys_of(character: Character, dims: set[int] | frozenset[int]) -> list[tuple[int, int]]:
    """The keys of a character that lie in these dimensions."""
    return [key for key in character if key is not None and key[0] in dims]
