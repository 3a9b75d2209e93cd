"""Programs rewritten so that the rules see what is independent: slices are moved in front of reshapes.

A fused projection computes queries, keys and values at once and tells them apart afterwards,

    h = reshape(x W, (.., 3, heads, dim)),  q = h[.., 0, :, :],  k = h[.., 1, :, :],  v = h[.., 2, :, :].

Read literally, the three share the axes of ``h``, and what moves q alone is lost. But a slice of a reshape is a reshape
of a slice: with s entries behind the dimension that is cut, positions ``[a, b)`` of it are ``[s a, s b)`` of that
dimension merged with those behind it,

    reshape(y, (n, s))[a:b] = reshape(reshape(y, (n s,))[s a:s b], (b - a, s)),

so q, k and v become segments of their own. A slice is moved backwards through equations that treat the positions of its
dimension alike until it meets such a reshape, and left where it is if it meets none. Entries that are overwritten at
known places, ``x.at[.., 0].set(y)``, are put together from slices as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from .moves import RESHAPES, Cut, cuts_of, operand_dims, split_off, update_of
from .numeric import compact
from .program import Equation, Program, Value
from .whitening import whiten

# A slice further away from its reshape than this many equations stays where it is.
MAX_STEPS = 32


def rewrite(program: Program) -> Program:
    """An equivalent program whose axes are easier to tell apart; see the docstrings of this module and `whitening`."""
    slices = _Slices()
    for equation in program.equations:
        slices.read(equation)
    return whiten(program.replace_equations(slices.equations))


class _Slices:
    """The program with its slices moved, as far as it has been read."""

    def __init__(self) -> None:
        self.equations: list[Equation] = []
        self._sources: dict[Value, Equation] = {}
        # For each dimension that a reshape has split off, how many equations ago.
        self._steps: dict[Value, dict[int, int]] = {}
        self._parts: dict[tuple[Value, Cut], Value] = {}

    def read(self, equation: Equation) -> None:
        """Take over an equation; slices and updates, however written, are made dimension by dimension."""
        update = update_of(equation)
        if update is not None:
            part = self._update(equation, *update)
            self._append(Equation("reshape", (part,), equation.outputs))
            return
        cuts = cuts_of(equation)
        if cuts is None:
            self._append(equation)
            return
        for output, wanted in zip(equation.outputs, cuts, strict=True):
            part = self._cut_all(equation.inputs[0], wanted)
            self._append(Equation("reshape", (part,), (output,)))

    def _update(self, equation: Equation, cuts: Sequence[Cut], combine: str | None) -> Value:
        """The first input with one part replaced by the last one that is no index, or combined with it."""
        x = equation.inputs[0]
        old = self._cut_all(x, cuts)
        new = self._reshape(equation.inputs[1 if equation.primitive == "dynamic_update_slice" else 2], old.shape)
        if combine is not None:
            operands, new = (old, new), Value(old.shape, x.dtype)
            self._append(Equation(combine, operands, (new,)))
        for number in reversed(range(len(cuts))):
            whole = self._cut_all(x, cuts[:number])
            dim, start, size = cuts[number]
            rest = whole.shape[dim] - start - size
            before = [self._cut(whole, (dim, 0, start))] if start else []
            after = [self._cut(whole, (dim, start + size, rest))] if rest else []
            pieces, new = (*before, new, *after), Value(whole.shape, x.dtype)
            self._append(Equation("concatenate", pieces, (new,), {"dimension": dim}))
        return new

    def _append(self, equation: Equation) -> None:
        self.equations.append(equation)
        for output in equation.outputs:
            self._sources[output] = equation
            dims = [dim for dim, size in enumerate(output.shape) if size > 1 and 0 not in output.shape]
            steps = {dim: self._distance(equation, dim) for dim in dims}
            self._steps[output] = {dim: number for dim, number in steps.items() if number < MAX_STEPS}

    def _distance(self, equation: Equation, dim: int) -> int:
        """How many equations a slice of the output along ``dim`` has to be moved; `MAX_STEPS` if that is too far."""
        if equation.primitive in RESHAPES and split_off(equation, dim) is not None:
            return 0
        dims = zip(equation.inputs, operand_dims(equation, dim) or (), strict=False)
        found = (self._steps.get(value, {}).get(source, MAX_STEPS) for value, source in dims if source is not None)
        return 1 + min(found, default=MAX_STEPS)

    def _cut_all(self, value: Value, cuts: Sequence[Cut]) -> Value:
        for cut in cuts:
            value = self._cut(value, cut)
        return value

    def _cut(self, value: Value, cut: Cut) -> Value:
        """A slice of a value, as early in the program as it pays."""
        dim, start, size = cut
        if size == value.shape[dim]:
            return value
        if (value, cut) not in self._parts:
            move = self._move if dim in self._steps.get(value, {}) else self._slice
            self._parts[value, cut] = move(value, cut)
        return self._parts[value, cut]

    def _slice(self, value: Value, cut: Cut) -> Value:
        """A slice right here."""
        dim, start, size = cut
        part = _resized(value, dim, size)
        if value.constant is not None:
            part.constant = compact(value.constant[(slice(None),) * dim + (slice(start, start + size),)])
            return part
        starts, limits = [0] * len(value.shape), list(value.shape)
        starts[dim], limits[dim] = start, start + size
        params = {"start_indices": tuple(starts), "limit_indices": tuple(limits), "strides": None}
        self._append(Equation("slice", (value,), (part,), params))
        return part

    def _move(self, value: Value, cut: Cut) -> Value:
        """A slice of the value's operands instead."""
        dim, start, size = cut
        equation = self._sources[value]
        if equation.primitive == "slice":
            return self._move_past_slice(equation, cut)
        if equation.primitive in RESHAPES:
            return self._move_past_reshape(equation, cut)
        operands = zip(equation.inputs, operand_dims(equation, dim) or (), strict=True)
        inputs = tuple(x if source is None else self._cut(x, (source, start, size)) for x, source in operands)
        part = _resized(value, dim, size)
        self._append(Equation(equation.primitive, inputs, (part,), equation.params))
        return part

    def _move_past_slice(self, equation: Equation, cut: Cut) -> Value:
        dim, start, size = cut
        starts = equation.params["start_indices"]
        part = self._cut(equation.inputs[0], (dim, starts[dim] + start, size))
        lengths = enumerate(zip(starts, equation.outputs[0].shape, strict=True))
        return self._cut_all(part, [(other, *each) for other, each in lengths if other != dim])

    def _move_past_reshape(self, equation: Equation, cut: Cut) -> Value:
        dim, start, size = cut
        (x, *_), (y,) = equation.inputs, equation.outputs
        merged = split_off(equation, dim)
        if merged is not None:
            shape, place = merged
            block = shape[place] // y.shape[dim]
            x = x if x.shape == shape else self._reshape(x, shape)
            part = self._cut(x, (place, start * block, size * block))
        else:
            (source, *_) = operand_dims(equation, dim) or [None]
            assert source is not None
            block = y.shape[dim] // x.shape[source]
            if start % block or size % block:
                return self._slice(y, cut)
            part = self._cut(x, (source, start // block, size // block))
        return self._reshape(part, (*y.shape[:dim], size, *y.shape[dim + 1 :]))

    def _reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        result = Value(shape, value.dtype)
        self._append(Equation("reshape", (value,), (result,)))
        return result


def _resized(value: Value, dim: int, size: int) -> Value:
    return Value((*value.shape[:dim], size, *value.shape[dim + 1 :]), value.dtype)
