r"""The modes of a sample: regions of high density with valleys between them.

A sample of many quantities is looked at in three dimensions: principal components or single quantities, those with the
clearest valleys in their histograms, and the leading components where fewer than three have any. There HDBSCAN proposes
clusters and takes the rest for noise. Noise joins the cluster that most of its nearest neighbours belong to. Two
clusters stay two modes only if there is a valley between them: with

    f(x) ~ r_m(x)^-k,    r_m the distance to the m-th nearest neighbour, k the dimension of the sample,

the highest pass between them, ``max min(f(x), f(y))`` over neighbours x and y of different clusters, must be at most
half as high as the lower of their peaks, and lower still by two standard errors, which are taken to be
``1 / (k sqrt(m))``: on a line a chance gap cannot be gone round, in more dimensions it can. Larger clusters are
measured by more neighbours. A bent ridge is one mode, however its ends lie. What is found is looked at again, in
dimensions of its own, until nothing falls apart: many modes do not fit into three.

References:
    R. J. G. B. Campello, D. Moulavi, J. Sander (2013), Density-based clustering based on hierarchical density
    estimates, PAKDD. F. Chazal, L. J. Guibas, S. Y. Oudot, P. Skraba (2013), Persistence-based clustering in Riemannian
    manifolds, Journal of the ACM 60 (the valley). C. Hennig (2007), Cluster-wise assessment of cluster stability,
    Computational Statistics & Data Analysis 52.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import KDTree

VALLEY_MAX = 0.5
"""Height of the pass between two modes, at most, in units of the lower of their peaks."""

SMALLEST_SHARE = 0.01
"""Modes with a smaller share of the draws are not looked for."""

MAX_DRAWS = 4000
"""Draws among which modes are looked for, evenly spaced; all others join the mode that their neighbours belong to."""

_MIN_DRAWS = 20  # fewer have no density
_DIMENSIONS = 3
_SMOOTHING = 10  # neighbours that HDBSCAN takes its density from
_NEIGHBOURS = np.array([20, 40, 80, 160])  # of the density ...
_PART = 16  # ... the most that are no more than this part of the smaller cluster
_MARGIN = 2.0  # standard errors
_VOTES = 15
_MAX_DEPTH = 8
_BINS, _SMOOTHED_BINS = 64, 2.0  # of histograms, and the standard deviation by which they are smoothed
_CLEAR_VALLEY = 5.0  # in standard errors of counts; the deepest of hundreds of chance valleys stay below
_SAME_DIRECTION = 0.7  # correlation


class Clusters(NamedTuple):
    """Modes of a sample.

    Attributes:
        labels: mode of each draw, from 0, the largest, on.
        is_core: whether all the nearest neighbours of a draw belong to its mode.
    """

    labels: Int[np.ndarray, " draw"]
    is_core: Bool[np.ndarray, " draw"]

    @property
    def number(self) -> int:
        """How many modes there are."""
        return int(self.labels.max(initial=-1)) + 1


def find_clusters(points: Float[np.ndarray, "draw quantity"]) -> Clusters:
    """The modes of a sample.

    Args:
        points: Draws of quantities in comparable units (see `between.standardise`), all finite.

    Returns:
        The modes; one where no valley was found.

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(1000, 2))
        >>> draws[:300] += 8.0
        >>> np.bincount(find_clusters(draws).labels)
        array([700, 300])
    """
    labels, is_core = np.zeros(len(points), int), np.ones(len(points), bool)
    smallest = max(_MIN_DRAWS, int(SMALLEST_SHARE * min(len(points), MAX_DRAWS)))
    pieces = [(np.arange(len(points)), 0)]
    number = 1
    while pieces:
        members, depth = pieces.pop()
        found = _split(points[members], smallest)
        is_core[members] &= found.is_core
        if found.number > 1:
            labels[members] = np.where(found.labels > 0, number - 1 + found.labels, labels[members])
            number += found.number - 1
            if depth < _MAX_DEPTH:
                pieces += [(members[found.labels == mode], depth + 1) for mode in range(found.number)]
    return Clusters(_by_size(labels), is_core)


def stability(
    points: Float[np.ndarray, "draw quantity"],
    labels: Int[np.ndarray, " draw"],
    *,
    num_resamples: int = 5,
    seed: int = 0,
) -> Float[np.ndarray, " mode"]:
    """How well each mode is found again in random halves of the draws.

    Args:
        points: Draws, as in `find_clusters`.
        labels: Its answer.
        num_resamples: Number of halves.
        seed: Of the halves.

    Returns:
        The mean over the halves of the largest Jaccard similarity ``|A n B| / |A u B|`` of the mode and one that is
        found there: 1 where it comes back draw for draw, below 0.75 where it should not be believed (Hennig 2007).

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(1000, 2))
        >>> draws[:300] += 8.0
        >>> stability(draws, find_clusters(draws).labels)
        array([1., 1.])
    """
    rng = np.random.default_rng(seed)
    num_modes = int(labels.max()) + 1
    used = _evenly(len(points))
    points, labels = points[used], labels[used]
    similarity = np.zeros(num_modes)
    for _ in range(num_resamples):
        half = np.sort(rng.choice(len(points), size=(len(points) + 1) // 2, replace=False))
        again = find_clusters(points[half]).labels
        overlap = np.zeros((num_modes, again.max() + 1))
        np.add.at(overlap, (labels[half], again), 1)
        union = overlap.sum(1, keepdims=True) + overlap.sum(0) - overlap
        similarity += (overlap / union).max(1) / num_resamples
    return similarity


def _split(points: Float[np.ndarray, "draw quantity"], smallest: int) -> Clusters:
    """The modes that three components show."""
    one = Clusters(np.zeros(len(points), int), np.ones(len(points), bool))
    sample = _evenly(len(points))
    if len(sample) < 2 * smallest:
        return one
    embedded = _embed(points, sample)
    if embedded.shape[1] == 0:
        return one
    seen = embedded[sample]
    from sklearn.cluster import HDBSCAN  # here, for its import takes as long as the rest of a short command

    proposed = HDBSCAN(min_cluster_size=smallest, min_samples=_SMOOTHING, copy=True).fit_predict(seen)  # pyright: ignore
    if proposed.max() < 1:
        return one
    labels, _ = _vote(seen[proposed >= 0], proposed[proposed >= 0], seen)
    labels = _fill_valleys(seen, np.where(proposed >= 0, proposed, labels))
    everywhere, is_core = _vote(seen, labels, embedded)
    everywhere[sample] = labels
    return Clusters(everywhere, is_core) if labels.max() > 0 else one


def _evenly(number: int) -> Int[np.ndarray, " draw"]:
    """At most so many draws as modes are looked for among."""
    return np.linspace(0, number - 1, min(number, MAX_DRAWS)).astype(int)


def _embed(points: Float[np.ndarray, "draw quantity"], sample: np.ndarray) -> Float[np.ndarray, "draw component"]:
    """All points in the dimensions that tell the modes of a sample apart best, in units of their spread."""
    spread = points[sample].std(0)
    varying = spread > np.finfo(points.dtype).eps * np.abs(points[sample]).max(0, initial=0.0)
    if not varying.any():
        return np.empty((len(points), 0))
    scaled = (points[:, varying] - points[sample][:, varying].mean(0)) / spread[varying]
    directions = np.hstack([_principal_directions(scaled[sample]), np.eye(scaled.shape[1])])
    seen = scaled @ directions[:, _clearest_valleys(scaled[sample] @ directions)]
    return (seen - seen[sample].mean(0)) @ _principal_directions(seen[sample])


def _principal_directions(points: Float[np.ndarray, "draw quantity"]) -> Float[np.ndarray, "quantity component"]:
    """Directions along which points are uncorrelated and have variance one, those of the largest spread first."""
    centred = points - points.mean(0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(points))
    kept = variances > 1e-12 * variances[-1]
    return (directions[:, kept] / np.sqrt(variances[kept]))[:, ::-1]


def _clearest_valleys(projected: Float[np.ndarray, "draw direction"]) -> list[int]:
    """Three directions, of which no two are nearly the same: those with clear valleys first, then in their order."""
    depth = _valley_depth(projected)
    order = np.argsort(np.where(depth > _CLEAR_VALLEY, -depth, 0.0), kind="stable")
    unit = projected - projected.mean(0)
    unit = unit / np.linalg.norm(unit, axis=0)
    chosen: list[int] = []
    for direction in order:
        if len(chosen) < _DIMENSIONS and (np.abs(unit[:, chosen].T @ unit[:, direction]) < _SAME_DIRECTION).all():
            chosen.append(int(direction))
    return chosen


def _valley_depth(projected: Float[np.ndarray, "draw direction"]) -> Float[np.ndarray, " direction"]:
    """By how many standard errors of a difference of counts the deepest valley lies below the peaks on both sides."""
    low, high = projected.min(0), projected.max(0)
    bins = np.minimum((_BINS * (projected - low) / (high - low)).astype(int), _BINS - 1)
    counts = np.zeros((_BINS, projected.shape[1]))
    np.add.at(counts, (bins, np.arange(projected.shape[1])), 1.0)
    # A smoothed count is a mean over about this many bins.
    window = 2 * np.sqrt(np.pi) * _SMOOTHED_BINS
    smooth = window * gaussian_filter1d(counts, _SMOOTHED_BINS, axis=0, mode="constant")
    left = np.maximum.accumulate(smooth, axis=0)
    right = np.maximum.accumulate(smooth[::-1], axis=0)[::-1]
    peak = np.minimum(left, right)
    return ((peak - smooth) / np.sqrt(np.maximum(peak + smooth, 1.0))).max(0)


def _vote(
    voters: Float[np.ndarray, "voter component"], labels: Int[np.ndarray, " voter"], points: np.ndarray
) -> tuple[Int[np.ndarray, " draw"], Bool[np.ndarray, " draw"]]:
    """The mode of most of each point's neighbours, and whether they are of one mind."""
    nearest = np.asarray(KDTree(voters).query(points, min(_VOTES, len(voters)))[1])
    votes = np.zeros((len(points), labels.max() + 1), int)
    np.add.at(votes, (np.arange(len(points))[:, None], labels[nearest]), 1)
    return votes.argmax(1), votes.max(1) == nearest.shape[1]


def _fill_valleys(points: Float[np.ndarray, "draw component"], labels: Int[np.ndarray, " draw"]) -> np.ndarray:
    """Join the two modes with the shallowest valley between them until all valleys are deep."""
    distances, neighbours = map(np.asarray, KDTree(points).query(points, min(_NEIGHBOURS[-1] + 1, len(points))))
    scales = np.minimum(_NEIGHBOURS, distances.shape[1] - 1)
    # Copies of one draw lie at distance zero; their density is merely large.
    radii = np.maximum(distances, 1e-3 * np.median(distances[:, -1]) + np.finfo(float).tiny)
    dimension = _dimension(radii[:, 1:])
    heights = -dimension * np.log(radii[:, scales])
    margin = _MARGIN / (dimension * np.sqrt(_NEIGHBOURS))
    while labels.max() > 0:
        depth = _depths(heights, neighbours[:, 1 : _VOTES + 1], labels) + margin[:, None, None]
        sizes = np.bincount(labels)
        smaller = np.minimum(sizes[:, None], sizes)
        scale = np.searchsorted(_NEIGHBOURS[1:], smaller // _PART, side="right")
        of_pair = np.take_along_axis(depth, scale[None], axis=0)[0]
        np.fill_diagonal(of_pair, -np.inf)
        if of_pair.max() < np.log(VALLEY_MAX):
            break
        first, second = sorted(np.unravel_index(of_pair.argmax(), of_pair.shape))
        labels = np.where(labels == second, first, labels)
        labels = labels - (labels > second)
    return labels


def _depths(
    heights: Float[np.ndarray, "draw scale"], near: Int[np.ndarray, "draw neighbour"], labels: Int[np.ndarray, " draw"]
) -> Float[np.ndarray, "scale mode mode"]:
    """Logarithm of the height of the pass between two modes in units of the lower of their peaks, at every scale."""
    number = int(labels.max()) + 1
    depths = []
    for height in heights.T:
        peaks = np.array([_peak(height[labels == mode]) for mode in range(number)])
        saddle = np.full((number, number), -np.inf)
        np.maximum.at(saddle, (labels[:, None], labels[near]), np.minimum(height[:, None], height[near]))
        depths.append(np.maximum(saddle, saddle.T) - np.minimum(peaks[:, None], peaks))
    return np.stack(depths)


def _dimension(radii: Float[np.ndarray, "draw neighbour"]) -> float:
    """Dimension of a sample, which may lie on a curve: Levina and Bickel's, averaged as MacKay and Ghahramani do."""
    closeness = np.log(radii[:, -1:] / radii[:, :-1]).mean()
    return float(max(1, round(1 / closeness))) if closeness > 0 else 1.0


def _peak(heights: Float[np.ndarray, " draw"]) -> float:
    """Height of a mode: the mean of its highest draws, for the single highest is so by chance."""
    return float(np.sort(heights)[-max(1, min(_MIN_DRAWS, len(heights) // 20)) :].mean())


def _by_size(labels: Int[np.ndarray, " draw"]) -> Int[np.ndarray, " draw"]:
    """Labels counted from the largest mode."""
    _, dense, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), int)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[dense.reshape(-1)]
