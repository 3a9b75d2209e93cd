r"""Evidence for each factor: the model itself, run in float64 at random weights and random elements.

For weights w, an element g of the factor and the outputs f (log probability of each observation, log prior),

    error    max |f(g w) - f(w)| / max |f(w)|                          at most 1e-10, over >= 2 draws of (w, g)
    control  the same with one member site left behind, g_-s w         at least 1e-13 and 100 x error: the test can fail

Both are relative to the largest output, so what separates them is rounding and not the size of the data: the log
probability of an observation of 1e9 hides all but the last digits of what the weights change.

Where leaving a site behind is a symmetry too (of a factor on a single array it is the identity), the control draws anew
what the factor moves there. A site that has no effect even then is passed over, and a factor without any effect is no
symmetry worth reporting.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
from jax import Array

from ..factor import MATRICES, Certificate, Factor, Pin
from ..group import SymmetryGroup

TOLERANCE = 1e-10
# Some hundred roundings of float64, and how far beyond the error that was seen a change must lie to count as one.
VISIBLE = 1e-13
MARGIN = 100.0
NUM_ELEMENTS = 2
SMALL = 1e-3
MAX_ELEMENTS = 6
MAX_DRAWS = 100
NO_EFFECT = "no effect on the output at random weights"
ZERO = "not certified: the outputs are zero up to rounding at random weights"
NOT_FINITE = f"not certified: fewer than {NUM_ELEMENTS + 1} of {MAX_DRAWS} random weights have finite outputs"

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
    points = _Points(probe, np.random.default_rng(0))
    for factor in group.factors:
        # Of its own, so that a factor of two groups meets the same elements in both.
        rng = np.random.default_rng([1, zlib.crc32(factor.name.encode())])
        certificate = _examine(SymmetryGroup(group.sites, (factor,)), points, rng)
        if certificate and certificate.error <= TOLERANCE and certificate.control >= _visible(certificate.error):
            factors.append(dataclasses.replace(factor, certificate=certificate))
            continue
        reason = NO_EFFECT if certificate else NOT_FINITE
        if certificate and certificate.error > TOLERANCE and points.vanish():
            reason = ZERO
        elif certificate and certificate.error > TOLERANCE:
            reason = (
                f"{factor.name} was dropped: its float64 certificate failed with error {certificate.error:.1e}; "
                "this is a defect of symmetry discovery, please report it"
            )
            defects.append(reason)
        pins += [Pin(slot.site, slot.axis, reason) for slot in factor.slots]
    return dataclasses.replace(group, factors=tuple(factors), pinned=tuple(pins)), tuple(defects)


def measure(factors: Iterable[Factor], group: SymmetryGroup, probe: Probe, tolerance: float) -> tuple[Factor, ...]:
    """Those factors that hold up to a tolerance, with the largest deviation that was seen as their error.

    Args:
        factors: What is tried.
        group: The sites.
        probe: The model.
        tolerance: Largest deviation, relative to the largest output.
    """
    measured = []
    points = _Points(probe, np.random.default_rng(0))
    for factor in factors:
        certificate = _examine(
            SymmetryGroup(group.sites, (factor,)), points, np.random.default_rng(1), tolerance=tolerance
        )
        if certificate and certificate.error <= tolerance and certificate.control > 0:
            measured.append(dataclasses.replace(factor, certificate=certificate))
    return tuple(measured)


def changes(factor: Factor, group: SymmetryGroup, probe: Probe) -> frozenset[str]:
    """Names of the outputs that some elements of one factor change, the first of them one that moves every member."""
    alone = SymmetryGroup(group.sites, (factor,))
    rng = np.random.default_rng(1)
    points = _Points(probe, rng)
    changed: set[str] = set()
    for number, (weights, reference) in enumerate(itertools.islice(points, NUM_ELEMENTS)):
        element = _element(factor, rng) if number else _moving_all(factor)
        moved = probe.outputs(alone.act({factor.name: element}, weights))
        changed |= {name for name in reference if not difference(moved, reference, (name,)) <= VISIBLE}
    return frozenset(changed)


def has_steps(sites: Collection[str], probe: Probe) -> bool:
    """Whether some outputs change with the sites but not with every small change of them: steps stay by chance."""
    rng = np.random.default_rng(3)
    weights, other = probe.draw(rng), probe.draw(rng)
    near = {site: np.asarray(weights[site]) + SMALL * np.asarray(other[site]) for site in sites}
    here, nearby, away = (
        probe.outputs(dict(weights) | dict(moved)) for moved in ({}, near, {site: other[site] for site in sites})
    )
    return any(_stays_then_jumps(here[name], nearby[name], away[name]) for name in here)


def _stays_then_jumps(here: np.ndarray, nearby: np.ndarray, away: np.ndarray) -> bool:
    visible = VISIBLE * np.abs(here).max(initial=0)
    return bool(((here == nearby) & (np.abs(here - away) > visible)).any())


def difference(left: Outputs, right: Outputs, names: Iterable[str] | None = None) -> float:
    """Largest change of an output relative to its largest entry; NaN where one is not finite."""
    worst = [0.0]
    for name in right if names is None else names:
        if right[name].size:
            scale = float(np.max(np.abs(right[name]))) or 1.0
            worst.append(float(np.max(np.abs(left[name] - right[name]))) / scale)
    return float(np.max(worst))


class _Points:
    """Random weights with the outputs there, all finite: drawn when first asked for, shared by all factors."""

    def __init__(self, probe: Probe, rng: np.random.Generator) -> None:
        self.probe = probe
        self._rng = rng
        self._points: list[tuple[Weights, Outputs]] = []
        self._num_draws = 0

    def __iter__(self) -> Iterator[tuple[Weights, Outputs]]:
        for number in itertools.count():
            while len(self._points) == number:
                if self._num_draws == MAX_DRAWS:
                    return
                self._draw()
            yield self._points[number]

    def vanish(self) -> bool:
        """Whether the outputs are nothing but rounding errors of numbers of order one."""
        return all(
            np.abs(output).max(initial=0) <= VISIBLE for _, outputs in self._points for output in outputs.values()
        )

    def _draw(self) -> None:
        self._num_draws += 1
        weights = self.probe.draw(self._rng)
        outputs = self.probe.outputs(weights)
        if all(np.isfinite(output).all() for output in outputs.values()):
            self._points.append((weights, outputs))


def _examine(
    group: SymmetryGroup, points: _Points, rng: np.random.Generator, tolerance: float = TOLERANCE
) -> Certificate | None:
    """Error and control of the one factor of ``group``; None without enough points to tell."""
    (factor,) = group.factors
    controls: dict[str, float] = dict.fromkeys((slot.site for slot in factor.slots), 0.0)
    error, num_elements = 0.0, 0
    for (weights, reference), (other, _) in itertools.islice(itertools.pairwise(points), MAX_ELEMENTS):
        hidden = [site for site, control in controls.items() if control < _visible(error)]
        if num_elements >= NUM_ELEMENTS and not hidden:
            break
        element = {factor.name: _element(factor, rng)}
        error = max(error, _nan_is_infinite(difference(points.probe.outputs(group.act(element, weights)), reference)))
        num_elements += 1
        if error > tolerance:
            return Certificate(float(error), 0.0, num_elements)
        for site in hidden:
            changed = difference(points.probe.outputs(_left_behind(site, group, element, weights)), reference)
            if changed < _visible(error):
                changed = difference(points.probe.outputs(_redrawn(site, group, weights, other)), reference)
            controls[site] = _nan_is_infinite(changed)
    if num_elements < NUM_ELEMENTS:
        return None
    control = min((control for control in controls.values() if control >= _visible(error)), default=0.0)
    return Certificate(float(error), float(control), num_elements)


def _visible(error: float) -> float:
    """The least change that is no rounding."""
    return max(VISIBLE, MARGIN * error)


def _left_behind(site: str, group: SymmetryGroup, element: Mapping[str, np.ndarray], weights: Weights) -> Weights:
    """The weights moved, except for one site."""
    return group.act(element, weights) | {site: weights[site]}


def _redrawn(site: str, group: SymmetryGroup, weights: Weights, other: Weights) -> Weights:
    """The weights with the positions of one site that the factor acts on taken from ``other``."""
    (factor,) = group.factors
    slots = tuple(
        dataclasses.replace(slot, exponent=1, fibre=()) for slot in dict.fromkeys(factor.slots) if slot.site == site
    )
    marker = Factor(factor.name, "scale", factor.axis, factor.size, slots)
    marked = SymmetryGroup(group.sites, (marker,)).act(
        {factor.name: np.full(factor.size, 2.0)}, {site: np.ones(group.sites[site])}
    )
    return dict(weights) | {site: np.where(np.asarray(marked[site]) > 1, other[site], weights[site])}


def _element(factor: Factor, rng: np.random.Generator) -> np.ndarray:
    """A random element of one factor that is not the identity."""
    if factor.kind == "scale":
        return np.exp(0.5 * rng.standard_normal(factor.shape))
    if factor.kind in MATRICES:
        return _matrices(factor, rng)
    if factor.kind == "sign":
        signs = rng.choice([-1.0, 1.0], size=factor.shape)
        signs.flat[rng.integers(signs.size)] = -1.0
        return signs
    identity = np.broadcast_to(np.arange(factor.size), factor.shape)
    permutation = np.array(identity)
    while np.array_equal(permutation, identity):
        for members in _exchangeable(factor):
            permutation[..., members] = rng.permuted(
                np.broadcast_to(members, (*factor.fibre_shape, len(members))), axis=-1
            )
    return permutation


def _moving_all(factor: Factor) -> np.ndarray:
    """An element that leaves no member as it is, but those that no other may be exchanged with."""
    if factor.kind in MATRICES:
        return np.broadcast_to(-np.eye(factor.size) * (1.0 if factor.kind == "orthogonal" else 3.0), factor.shape)
    if factor.kind != "permutation":
        return np.full(factor.shape, -1.0 if factor.kind == "sign" else 3.0)
    permutation = np.arange(factor.size)
    for members in _exchangeable(factor):
        permutation[members] = np.roll(members, 1)
    return np.broadcast_to(permutation, factor.shape)


def _exchangeable(factor: Factor) -> list[np.ndarray]:
    """The members of each colour."""
    colours = np.asarray(factor.colours if factor.colours is not None else [0] * factor.size)
    return [np.flatnonzero(colours == colour) for colour in np.unique(colours)]


def _matrices(factor: Factor, rng: np.random.Generator) -> np.ndarray:
    """Random rotations, for GL(n) two of them around singular values near one."""
    left, right = (np.linalg.qr(rng.standard_normal(factor.shape))[0] for _ in range(2))
    if factor.kind == "orthogonal":
        return left
    return left * np.exp(0.3 * rng.standard_normal((*factor.shape[:-2], 1, factor.size))) @ right


def _nan_is_infinite(value: float) -> float:
    return np.inf if np.isnan(value) else value
