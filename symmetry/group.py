"""Weight-space symmetry groups: elements, their composition, and their action on weights.

A symmetry group of a model is a product of *factors* (`factor.py`): permutations, signs, scales and matrices of axis
classes. The factors of one class form the semidirect product of the diagonal part with S_n. A factor that varies over
a *fibre*, other classes h, is carried along by their permutations tau: a wreath product. An element is a dict from
factor name to array; it permutes first, outer classes before inner ones, and multiplies afterwards,

    w'[.., h, .., j, ..] = d_h[j]^e  w[.., tau[h], .., sigma_h[j], ..],

so the product of two elements has

    tau = tau_1[tau_2],   sigma_h = sigma_1,k[sigma_2,h]  and  d_h = d_2,h * d_1,k[sigma_2,h]   with  k = tau_2[h].

Everything downstream (balancing, alignment, canonical trees) only ever chooses an element: weights change through
`SymmetryGroup.act` alone.

References:
    Hecht-Nielsen, On the algebraic structure of feedforward network weight spaces, 1990.
    Chen, Lu and Hecht-Nielsen, On the geometry of feedforward neural network error surfaces, 1993.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import jax
from jax import Array
from jaxtyping import PRNGKeyArray

from . import serialize
from .action import AnyArray, Element, Weights, change, gather, invert, neutral, random
from .factor import KINDS, MATRICES, Factor, Kind, Pin, Shift, check_factors, whole_axes


@jax.tree_util.register_static
@dataclass(frozen=True)
class SymmetryGroup:
    """A product of factors, acting on the weights of one model.

    Hashable, equal by value, and a static pytree node: a jitted function may take it as an argument.

    Args:
        sites: Site name to constrained shape, without batch dims.
        factors: The factors; their names are the keys of elements. An axis class has one permutation at most.
        pinned: Axes that are not free, with reasons.
        axes: Site name to one axis-class name (or None) a dim. Default: the classes of slots that are a whole axis.
        shifts: Numbers that may be added to sites; they are reported, and no part of elements.

    Raises:
        ValueError: If a name is used twice, a slot does not fit its site, or an axis class has two permutations.

    Example:
        >>> import numpy as np
        >>> from symmetry import Factor, Slot
        >>> slots = Slot("kernel", 1, 3), Slot("bias", 0, 3)
        >>> factor = Factor("units", "permutation", "hidden_0", 3, slots)
        >>> group = SymmetryGroup({"kernel": (2, 3), "bias": (3,)}, (factor,))
        >>> element = {"units": np.array([2, 0, 1])}
        >>> group.act(element, {"bias": np.array([10.0, 20.0, 30.0])})["bias"]
        array([30., 10., 20.])
    """

    sites: Mapping[str, tuple[int, ...]]
    factors: tuple[Factor, ...] = ()
    pinned: tuple[Pin, ...] = ()
    axes: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    shifts: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        sites = {site: tuple(shape) for site, shape in self.sites.items()}
        object.__setattr__(self, "sites", sites)
        object.__setattr__(self, "factors", tuple(self.factors))
        object.__setattr__(self, "pinned", tuple(self.pinned))
        object.__setattr__(self, "shifts", tuple(self.shifts))
        check_factors(self.factors, sites)
        axes = {site: tuple(self.axes.get(site, whole_axes(self.factors, site, sites[site]))) for site in sites}
        object.__setattr__(self, "axes", axes)

    def __hash__(self) -> int:
        return hash((tuple(self.sites.items()), self.factors, self.pinned, tuple(self.axes.items()), self.shifts))

    def factor(self, name: str) -> Factor:
        """The factor of this name."""
        for factor in self.factors:
            if factor.name == name:
                return factor
        known = ", ".join(factor.name for factor in self.factors) or "none"
        raise ValueError(f"the group has no factor {name!r}; its factors are: {known}")

    def restrict(self, kinds: Collection[Kind]) -> SymmetryGroup:
        """The subgroup made of the factors of these kinds, ``("permutation", "sign")`` say."""
        kept = tuple(factor for factor in self.factors if factor.kind in kinds)
        return replace(self, factors=kept, shifts=())

    def monomial(self) -> SymmetryGroup:
        """The subgroup of permutations, signs and scales: matrices with one entry in each row and each column."""
        factors: list[Factor] = []
        for factor in self.factors:
            kinds: dict[Kind, tuple[Kind, ...]] = {
                "linear": ("permutation", "sign", "scale"),
                "orthogonal": ("permutation", "sign"),
            }
            for kind in kinds.get(factor.kind, ()):
                slots = tuple(replace(slot, exponent=slot.exponent if kind == "scale" else 1) for slot in factor.slots)
                factors.append(replace(factor, name=f"{factor.axis}:{kind}", kind=kind, slots=slots, certificate=None))
            factors += [factor] if factor.kind not in MATRICES else []
        return replace(self, factors=tuple(factors), shifts=())

    def act(self, element: Element, weights: Weights) -> dict[str, AnyArray]:
        """Move weights along their orbit, ``w'[j] = d[j]^e w[sigma[j]]``.

        Batch dims lead, and those of the element broadcast against those of the weights. Pure, and safe under jit, vmap
        and grad; NumPy weights stay in NumPy and keep their precision.

        Args:
            element: Factor name to array ``(..., *factor.shape)``. A factor that is not named acts as its identity.
            weights: Site name to constrained value. Sites unknown to the group pass through.

        Returns:
            All the sites of ``weights``, moved.

        Raises:
            ValueError: If the element names an unknown factor or a shape does not fit.
        """
        self._check(element, weights)
        moved = dict(weights)
        for factor in _in_order(self.factors):
            for slot in factor.slots:
                if factor.name in element and slot.site in moved:
                    shape = self.sites[slot.site]
                    moved[slot.site] = change(factor, moved[slot.site], slot, shape, element[factor.name])
        return moved

    def identity(self) -> dict[str, Array]:
        """The neutral element."""
        return {factor.name: neutral(factor) for factor in self.factors}

    def compose(self, second: Element, first: Element) -> dict[str, AnyArray]:
        """The element that acts like ``first`` and then ``second``; batch dims broadcast."""
        self._check(second, {})
        self._check(first, {})
        result = {}
        for factor in self.factors:
            if factor.name not in first and factor.name not in second:
                continue
            if factor.name not in first:
                result[factor.name] = second[factor.name]
                continue
            carried = self._carry(factor, first[factor.name], second)
            result[factor.name] = _multiply(factor, second.get(factor.name), carried)
        return result

    def inverse(self, element: Element) -> dict[str, AnyArray]:
        """The element that undoes ``element``: ``sigma_h^-1`` and ``1 / d_h`` where ``tau`` and ``sigma`` take them."""
        self._check(element, {})
        result: dict[str, AnyArray] = {}
        for factor in _in_order(self.factors):
            if factor.name in element:
                carried = self._carry(factor, element[factor.name], result)
                result[factor.name] = _invert(factor, carried)
        return result

    def random(self, rng_key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> dict[str, Array]:
        """Random elements.

        Uniform permutations within colours, uniform signs, log-normal scales (log-sd 1), Haar-orthogonal matrices, and
        for GL(n) two of these around log-normal singular values (log-sd 0.3). Over a fibre all are independent.
        """
        keys = jax.random.split(rng_key, max(len(self.factors), 1))
        return {factor.name: random(factor, key, batch_shape) for factor, key in zip(self.factors, keys, strict=False)}

    @property
    def order(self) -> int:
        """Number of elements of the finite part (permutations and signs), exactly."""
        order = 1
        for factor in self.factors:
            if factor.kind == "permutation":
                order *= math.prod(math.factorial(size) for size in factor.colour_sizes) ** factor.num_copies
            if factor.kind == "sign":
                order *= 2 ** (factor.size * factor.num_copies)
        return order

    @property
    def log_order(self) -> float:
        """Natural logarithm of the order of the finite part: ``sum log n_c! + n log 2``."""
        total = 0.0
        for factor in self.factors:
            if factor.kind == "permutation":
                total += factor.num_copies * sum(math.lgamma(size + 1) for size in factor.colour_sizes)
            if factor.kind == "sign":
                total += factor.num_copies * factor.size * math.log(2)
        return total

    @property
    def dimension(self) -> int:
        """Dimension of the continuous part: scales, matrices and shifts."""
        return sum(part.dimension for part in (*self.factors, *self.shifts))

    def describe(self) -> str:
        """The group as text: factors, members, certificates, pinned axes with reasons, order."""
        return serialize.describe(self)

    def __str__(self) -> str:
        return self.describe()

    def to_json(self) -> str:
        """The group as JSON, lossless."""
        return serialize.dump(self)

    @classmethod
    def from_json(cls, text: str) -> SymmetryGroup:
        """The group that `to_json` wrote."""
        return cls(**serialize.group_fields(serialize.parse(text)))

    def _carry(self, factor: Factor, values: AnyArray, element: Element) -> AnyArray:
        """``values[tau[h], sigma_h[j]]`` under the permutations that the element has for the factor's classes."""
        names = (*factor.fibre, factor.axis)
        for other in _in_order(self.factors):
            if other.kind == "permutation" and other.axis in names and other.name in element:
                position = names.index(other.axis) - len(factor.shape)
                values = gather(values, _along(factor, other, element[other.name]), position)
        return values

    def _check(self, element: Element, weights: Weights) -> None:
        """Refuse elements and weights whose shapes do not fit; shapes only, hence free under jit."""
        for name, values in element.items():
            self._check_values(self.factor(name), values)
        for site, array in weights.items():
            shape = self.sites.get(site, ())
            if array.shape[array.ndim - len(shape) :] != shape or array.ndim < len(shape):
                raise ValueError(f"site {site!r} must have shape {_behind_batch(shape)}, got {array.shape}")

    def _check_values(self, factor: Factor, values: AnyArray) -> None:
        if values.ndim < len(factor.shape) or values.shape[values.ndim - len(factor.shape) :] != factor.shape:
            raise ValueError(
                f"the element's {factor.name!r} must have shape {_behind_batch(factor.shape)}, got {values.shape}"
            )


def _in_order(factors: Collection[Factor]) -> list[Factor]:
    """Permutations first, those of outer classes before those that vary over them."""
    return sorted(factors, key=lambda factor: (KINDS.index(factor.kind), len(factor.fibre)))


def _multiply(factor: Factor, second: AnyArray | None, carried: AnyArray) -> AnyArray:
    if second is None or factor.kind == "permutation":
        return carried
    return second @ carried if factor.kind in MATRICES else second * carried


def _invert(factor: Factor, carried: AnyArray) -> AnyArray:
    if factor.kind == "permutation":
        return carried.argsort(axis=-1).astype(carried.dtype)
    if factor.kind in MATRICES:
        return invert(carried, orthogonal=factor.kind == "orthogonal")
    return carried if factor.kind == "sign" else 1 / carried


def _along(factor: Factor, permutation: Factor, values: AnyArray) -> AnyArray:
    """The values of a permutation with a dim of length one for each class of ``factor`` that they do not vary over."""
    batch = values.shape[: values.ndim - len(permutation.shape)]
    own, names = (*permutation.fibre, permutation.axis), (*factor.fibre, factor.axis)
    order = [own.index(name) for name in names if name in own]
    values = values.transpose((*range(len(batch)), *(len(batch) + position for position in order)))
    sizes = dict(zip(own, permutation.shape, strict=True))
    dims = [sizes.get(name, 1) for name in names]
    return values.reshape(*batch, *dims, *((1,) if factor.kind in MATRICES else ()))


def _behind_batch(shape: tuple[int, ...]) -> str:
    return f"(..., {', '.join(map(str, shape))})"
