r"""Evidence for each factor: the model itself, run in float64 at random weights and random elements.

For weights w, an element g of the factor and the outputs f (log probability of each observation, log prior),

    error    max |f(g w) - f(w)| / max |f(w)|                          at most 1e-10, over >= 2 draws of (w, g)
    control  the same with one member site left behind, g_-s w         must not vanish: the test can fail

Where leaving a site behind is a symmetry too (of a factor on a single array it is the identity), the control draws anew
what the factor moves there. A site that has no effect even then is passed over, and a factor without any effect is no
symmetry worth reporting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jax import Array

from ..group import Certificate, Factor, Pin, SymmetryGroup

TOLERANCE = 1e-10
VISIBLE = 1e-8
NUM_ELEMENTS = 2
MAX_ELEMENTS = 6
NO_EFFECT = "no effect on the output at random weights"

type Weights = Mapping[str, Array | np.ndarray]
type Outputs = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Probe:
    """A model that can be run in float64.

    Args:
        draw: Random weights, from a NumPy generator.
        outputs: What a symmetry leaves unchanged, at given weights.
    """

    draw: Callable[[np.random.Generator], Weights]
    outputs: Callable[[Weights], Outputs]


def certify(group: SymmetryGroup, probe: Probe) -> tuple[SymmetryGroup, tuple[str, ...]]:
    """Check every factor; those that fail are dropped.

    Args:
        group: What the analysis claims.
        probe: The model.

    Returns:
        The group with certificates, and one sentence for each factor that was dropped. Such a factor is a defect of
        discovery, not of the model.
    """
    factors, defects, pins = [], [], list(group.pinned)
    rng = np.random.default_rng(0)
    points = _Points(probe, rng)
    for factor in group.factors:
        alone = SymmetryGroup(group.sites, (factor,))
        certificate = _examine(alone, points, rng)
        if certificate.error <= TOLERANCE and certificate.control >= VISIBLE:
            factors.append(dataclasses.replace(factor, certificate=certificate))
            continue
        reason = NO_EFFECT
        if certificate.error > TOLERANCE:
            reason = (
                f"{factor.name} was dropped: its float64 certificate failed with error {certificate.error:.1e}; "
                "this is a defect of symmetry discovery, please report it"
            )
            defects.append(reason)
        pins += [Pin(slot.site, slot.axis, reason) for slot in factor.slots if slot.axis is not None]
    return SymmetryGroup(group.sites, tuple(factors), tuple(pins), group.axes), tuple(defects)


def changes(factor: Factor, group: SymmetryGroup, probe: Probe) -> frozenset[str]:
    """Names of the outputs that random elements of one factor change."""
    alone = SymmetryGroup(group.sites, (factor,))
    rng = np.random.default_rng(1)
    points = _Points(probe, rng)
    changed: set[str] = set()
    for number in range(NUM_ELEMENTS):
        weights, reference = points[number]
        moved = probe.outputs(alone.act({factor.name: _element(factor, rng)}, weights))
        changed |= {name for name in reference if not difference(moved, reference, (name,)) <= VISIBLE}
    return frozenset(changed)


def difference(left: Outputs, right: Outputs, names: Iterable[str] | None = None) -> float:
    """Largest change of an output relative to its largest entry; NaN where one is not finite."""
    worst = [0.0]
    for name in right if names is None else names:
        if right[name].size:
            scale = max(float(np.max(np.abs(right[name]))), np.finfo(np.float64).tiny)
            worst.append(float(np.max(np.abs(left[name] - right[name]))) / scale)
    return float(np.max(worst))


class _Points:
    """Random weights with the outputs there, made when first asked for and shared by all factors."""

    def __init__(self, probe: Probe, rng: np.random.Generator) -> None:
        self.probe = probe
        self._rng = rng
        self._points: list[tuple[Weights, Outputs]] = []

    def __getitem__(self, number: int) -> tuple[Weights, Outputs]:
        while len(self._points) <= number:
            weights = self.probe.draw(self._rng)
            self._points.append((weights, self.probe.outputs(weights)))
        return self._points[number]


def _examine(group: SymmetryGroup, points: _Points, rng: np.random.Generator) -> Certificate:
    """Error and control of the one factor of ``group``."""
    (factor,) = group.factors
    error, num_elements = 0.0, 0
    controls: dict[str, float] = dict.fromkeys((slot.site for slot in factor.slots), 0.0)
    for number in range(MAX_ELEMENTS):
        if num_elements >= NUM_ELEMENTS and min(controls.values()) >= VISIBLE:
            break
        weights, reference = points[number]
        if not all(np.isfinite(output).all() for output in reference.values()):
            continue
        element = {factor.name: _element(factor, rng)}
        moved = group.act(element, weights)
        error = max(error, _nan_is_infinite(difference(points.probe.outputs(moved), reference)))
        num_elements += 1
        for site in [site for site, control in controls.items() if control < VISIBLE]:
            changed = difference(points.probe.outputs(_left_behind(site, group, element, weights)), reference)
            if changed < VISIBLE:
                redrawn = _redrawn(site, group, weights, points[number + 1][0])
                changed = difference(points.probe.outputs(redrawn), reference)
            controls[site] = _nan_is_infinite(changed)
    error = error if num_elements >= NUM_ELEMENTS else np.inf
    control = min((control for control in controls.values() if control >= VISIBLE), default=0.0)
    return Certificate(float(error), float(control), num_elements)


def _left_behind(site: str, group: SymmetryGroup, element: Mapping[str, np.ndarray], weights: Weights) -> Weights:
    """The weights moved, except for one site."""
    return group.act(element, weights) | {site: weights[site]}


def _redrawn(site: str, group: SymmetryGroup, weights: Weights, other: Weights) -> Weights:
    """The weights with the positions of one site that the factor acts on taken from ``other``."""
    (factor,) = group.factors
    slots = tuple(dataclasses.replace(slot, exponent=1) for slot in factor.slots if slot.site == site)
    marker = Factor(factor.name, "scale", factor.axis, factor.size, slots)
    marked = SymmetryGroup(group.sites, (marker,)).act(
        {factor.name: np.full(factor.size, 2.0)}, {site: np.ones(group.sites[site])}
    )
    return dict(weights) | {site: np.where(np.asarray(marked[site]) > 1, other[site], weights[site])}


def _element(factor: Factor, rng: np.random.Generator) -> np.ndarray:
    """A random element of one factor that is not the identity."""
    if factor.kind == "scale":
        return np.exp(0.5 * rng.standard_normal(factor.size))
    if factor.kind == "sign":
        signs = rng.choice([-1.0, 1.0], size=factor.size)
        signs[rng.integers(factor.size)] = -1.0
        return signs
    permutation = np.arange(factor.size)
    colours = np.asarray(factor.colours if factor.colours is not None else [0] * factor.size)
    while np.array_equal(permutation, np.arange(factor.size)):
        for colour in np.unique(colours):
            members = np.flatnonzero(colours == colour)
            permutation[members] = rng.permutation(members)
    return permutation


def _nan_is_infinite(value: float) -> float:
    return np.inf if np.isnan(value) else value
