"""Weight-space symmetry groups: elements, their composition, and their action on weights.

A symmetry group of a model is a product of *factors* (`action.py`), permutations, signs and scales of axis classes.
The factors of one class form the semidirect product of the diagonal part with S_n. An element is a dict from factor
name to array; it permutes first and multiplies afterwards,

    w'[.., j, ..] = d[j]^e  w[.., sigma[j], ..],

so ``(d_2, sigma_2) (d_1, sigma_1) = (d_2 * d_1[sigma_2], sigma_1[sigma_2])``. Everything downstream (balancing,
alignment, canonical trees) only ever chooses an element: weights change through `SymmetryGroup.act` alone.

References:
    Hecht-Nielsen, On the algebraic structure of feedforward network weight spaces, 1990.
    Chen, Lu and Hecht-Nielsen, On the geometry of feedforward neural network error surfaces, 1993.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import jax
from jax import Array
from jaxtyping import PRNGKeyArray

from . import serialize
from .action import KINDS as KINDS
from .action import AnyArray as AnyArray
from .action import Certificate as Certificate
from .action import Element as Element
from .action import Factor as Factor
from .action import Kind as Kind
from .action import Pin as Pin
from .action import Slot as Slot
from .action import Weights as Weights
from .action import check_factors, gather, multiply, neutral, permute, random, whole_axes


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

    Raises:
        ValueError: If a name is used twice, a slot does not fit its site, or an axis class has two permutations.

    Example:
        >>> import numpy as np
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

    def __post_init__(self) -> None:
        sites = {site: tuple(shape) for site, shape in self.sites.items()}
        object.__setattr__(self, "sites", sites)
        object.__setattr__(self, "factors", tuple(self.factors))
        object.__setattr__(self, "pinned", tuple(self.pinned))
        check_factors(self.factors, sites)
        axes = {site: tuple(self.axes.get(site, whole_axes(self.factors, site, sites[site]))) for site in sites}
        object.__setattr__(self, "axes", axes)

    def __hash__(self) -> int:
        return hash((tuple(self.sites.items()), self.factors, self.pinned, tuple(self.axes.items())))

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
        return SymmetryGroup(self.sites, kept, self.pinned, self.axes)

    def act(self, element: Element, weights: Weights) -> dict[str, AnyArray]:
        """Move weights along their orbit, ``w'[j] = d[j]^e w[sigma[j]]``.

        Batch dims lead, and those of the element broadcast against those of the weights. Pure, and safe under jit, vmap
        and grad; NumPy weights stay in NumPy and keep their precision.

        Args:
            element: Factor name to array ``(..., member)``. A factor that is not named acts as its identity.
            weights: Site name to constrained value. Sites unknown to the group pass through.

        Returns:
            All the sites of ``weights``, moved.

        Raises:
            ValueError: If the element names an unknown factor or a shape does not fit.
        """
        self._check(element, weights)
        moved = dict(weights)
        for factor in sorted(self.factors, key=lambda factor: KINDS.index(factor.kind)):
            if factor.name not in element:
                continue
            change = permute if factor.kind == "permutation" else multiply
            for slot in factor.slots:
                if slot.site in moved:
                    moved[slot.site] = change(moved[slot.site], slot, self.sites[slot.site], element[factor.name])
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
            diagonal = factor.kind != "permutation" and factor.name in second
            result[factor.name] = second[factor.name] * carried if diagonal else carried
        return result

    def inverse(self, element: Element) -> dict[str, AnyArray]:
        """The element that undoes ``element``: ``sigma^-1`` and ``d'[j] = 1 / d[sigma^-1[j]]``."""
        self._check(element, {})
        result = {
            factor.name: element[factor.name].argsort(axis=-1).astype(element[factor.name].dtype)
            for factor in self.factors
            if factor.kind == "permutation" and factor.name in element
        }
        for factor in self.factors:
            if factor.kind != "permutation" and factor.name in element:
                carried = self._carry(factor, element[factor.name], result)
                result[factor.name] = carried if factor.kind == "sign" else 1 / carried
        return result

    def random(self, rng_key: PRNGKeyArray, batch_shape: tuple[int, ...] = ()) -> dict[str, Array]:
        """Random elements: uniform permutations within colours, uniform signs, log-normal scales (log-sd 1)."""
        keys = jax.random.split(rng_key, max(len(self.factors), 1))
        return {
            factor.name: random(factor, key, (*batch_shape, factor.size))
            for factor, key in zip(self.factors, keys, strict=False)
        }

    @property
    def order(self) -> int:
        """Number of elements of the finite part (permutations and signs), exactly."""
        order = 1
        for factor in self.factors:
            if factor.kind == "permutation":
                order *= math.prod(math.factorial(size) for size in factor.colour_sizes)
            if factor.kind == "sign":
                order *= 2**factor.size
        return order

    @property
    def log_order(self) -> float:
        """Natural logarithm of the order of the finite part: ``sum log n_c! + n log 2``."""
        total = 0.0
        for factor in self.factors:
            if factor.kind == "permutation":
                total += sum(math.lgamma(size + 1) for size in factor.colour_sizes)
            if factor.kind == "sign":
                total += factor.size * math.log(2)
        return total

    def describe(self) -> str:
        """The group as text: factors, members, certificates, pinned axes with reasons, order."""
        return serialize.describe(self.factors, self.pinned, self.order)

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
        """``values[sigma]`` under the permutation that the element has for the factor's axis class."""
        for other in self.factors:
            if other.kind == "permutation" and other.axis == factor.axis and other.name in element:
                return gather(values, element[other.name])
        return values

    def _check(self, element: Element, weights: Weights) -> None:
        """Refuse elements and weights whose shapes do not fit; shapes only, hence free under jit."""
        for name, values in element.items():
            size = self.factor(name).size
            if values.ndim == 0 or values.shape[-1] != size:
                raise ValueError(f"the element's {name!r} must have shape (..., {size}), got {values.shape}")
        for site, array in weights.items():
            shape = self.sites.get(site, ())
            if array.shape[array.ndim - len(shape) :] != shape or array.ndim < len(shape):
                raise ValueError(
                    f"site {site!r} must have shape (..., {', '.join(map(str, shape))}), got {array.shape}"
                )


@dataclass(frozen=True)
class Broken:
    """A factor of the likelihood's group that the posterior's lacks: the sites whose prior breaks it, and how.

    Without sites no prior was seen to change: the factor may hold for the posterior, but could not be proved.
    """

    factor: str
    sites: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Symmetries:
    """What `find_symmetries` found: symmetries of the log joint, of the log likelihood, and what the prior breaks.

    Args:
        posterior: Exact symmetries of the log joint that leave each observation's log probability as it is; None where
            there is no prior (a bare function).
        likelihood: Symmetries of the log likelihood, or of the function.
        broken: Factors of ``likelihood`` that ``posterior`` lacks: broken by the prior, or not proved.
    """

    posterior: SymmetryGroup | None
    likelihood: SymmetryGroup
    broken: tuple[Broken, ...] = ()

    def describe(self) -> str:
        """Both groups and what the prior breaks, as text."""
        parts = [] if self.posterior is None else ["Symmetries of the posterior", _indent(self.posterior.describe())]
        if self.posterior is not None and _act_alike(self.posterior, self.likelihood):
            return "\n".join([*parts, "Symmetries of the likelihood: the same; the prior breaks none of them."])
        parts += ["Symmetries of the likelihood", _indent(self.likelihood.describe())]
        broken = [f"{item.factor} through {', '.join(item.sites)}: {item.note}" for item in self.broken if item.sites]
        unproved = [f"{item.factor}: {item.note}" for item in self.broken if not item.sites]
        for title, lines in (("Broken by the prior", broken), ("Neither broken nor proved", unproved)):
            parts += [title, *map(_indent, lines)] if lines else []
        return "\n".join(parts)

    def __str__(self) -> str:
        return self.describe()

    def to_json(self) -> str:
        """Both groups as JSON, lossless."""
        return serialize.dump(self)

    @classmethod
    def from_json(cls, text: str) -> Symmetries:
        """What `to_json` wrote."""
        document = serialize.parse(text)
        posterior = document["posterior"]
        return cls(
            None if posterior is None else SymmetryGroup(**serialize.group_fields(posterior)),
            SymmetryGroup(**serialize.group_fields(document["likelihood"])),
            tuple(Broken(item["factor"], tuple(item["sites"]), item["note"]) for item in document["broken"]),
        )


def _act_alike(first: SymmetryGroup, second: SymmetryGroup) -> bool:
    """Whether two groups have the same factors, whatever their certificates."""
    bare = ([replace(factor, certificate=None) for factor in group.factors] for group in (first, second))
    return next(bare) == next(bare)


def _indent(text: str) -> str:
    return textwrap.indent(text, "    ")
