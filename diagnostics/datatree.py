"""The border to ArviZ: draws as a `DataTree`.

A tree holds ArviZ's groups under ArviZ's names (``posterior``, ``sample_stats``, ``log_likelihood``,
``posterior_predictive``, ``observed_data``, ``constant_data``) and three of our own: ``function``, what the model says
in each draw; ``invariants``, log likelihood and log prior; ``precision``, the prior precisions of the weights that
scales move. Every ArviZ statistic and plot takes any of them by ``group=``. All attributes are JSON, the symmetries
included, so that a stored tree is read without its model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import arviz as az
import jax
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray

from inference import Draws
from symmetry import Symmetries

from .dims import axis_classes, dim_names
from .log_prior import precisions_on_orbits, prior_precisions, scale_sites

_LIBRARIES = ("manymodes", "jax", "numpyro", "blackjax", "arviz", "numpy")
_LADDER_DIMS = {"replica": "rung", "inverse_temperature": "rung", "rejection_rate": "rung_pair"}
_PREDICTIVE_NUMBERS = 2**24  # at most this many predicted numbers are kept: 64 MB


def to_datatree(
    draws: Draws, symmetries: Symmetries | None = None, *, rng_key: PRNGKeyArray | None = None
) -> xr.DataTree:
    """Draws as an ArviZ tree, with the groups that need the model while it is at hand.

    Args:
        draws: What `inference.sample` returned.
        symmetries: What `symmetry.find_symmetries` found; names the dims and travels with the tree.
        rng_key: Of the posterior predictive draws; default ``jax.random.key(0)``.

    Returns:
        The tree. Without a posterior (a run read back from disk) it has no posterior predictive and no precisions.

    Raises:
        ValueError: If there are no draws, or the symmetries belong to other sites.
    """
    if not isinstance(draws, Draws):
        raise ValueError(f"draws of sample(...) or read_run(...) were expected, got {type(draws).__name__}")
    if draws.num_draws == 0:
        raise ValueError("draws to put into a tree were expected, got none; sample with num_draws of 1 or more")
    if symmetries is not None:
        _check_sites(symmetries, draws.weights)
    posterior = draws.posterior
    data = {}
    if posterior is not None:
        data = {"observed_data": posterior.observed_data(), "constant_data": posterior.constant_data()}
    tree = build_tree(draws, symmetries, data, _settings(draws))
    if posterior is not None:
        tree["posterior_predictive"] = _predictive(draws, jax.random.key(0) if rng_key is None else rng_key)
        if symmetries is not None:
            _add_precisions(tree, draws, symmetries)
    return tree


def build_tree(
    draws: Draws,
    symmetries: Symmetries | None,
    data: Mapping[str, Mapping[str, np.ndarray]],
    settings: Mapping[str, Any],
) -> xr.DataTree:
    """The groups that need no model.

    Args:
        draws: Draws, with or without their posterior.
        symmetries: The groups, if they were looked for.
        data: ``observed_data`` and ``constant_data`` by name.
        settings: What goes into the root's attributes; JSON values.
    """
    # Flags would break ArviZ's summary of the whole group.
    derived = {name: x.astype(np.int8) if x.dtype == bool else x for name, x in draws.deterministic.items()}
    groups: dict[str, Mapping[str, np.ndarray]] = {"posterior": draws.weights | derived}
    groups["sample_stats"] = draws.sample_stats
    groups["invariants"] = draws.invariants
    if draws.pointwise:
        groups["log_likelihood"] = draws.pointwise
    function, function_dims, about_function = _function(draws)
    if function is not None:
        groups["function"] = {"function": function}
    groups |= {name: arrays for name, arrays in data.items() if arrays}
    if isinstance(draws.probes, np.ndarray | jax.Array):
        groups["constant_data"] = {**groups.get("constant_data", {}), "probes": np.asarray(draws.probes)}
    shapes = {site: array.shape[2:] for site, array in draws.weights.items()}
    variables = {name for arrays in groups.values() for name in arrays}
    dims = dim_names(symmetries, shapes, variables) | {"function": function_dims}
    dims |= {name: [dim] for name, dim in _LADDER_DIMS.items() if name in draws.sample_stats}
    own = {"inference_library": "manymodes", "interrupted": draws.interrupted, "seconds": draws.seconds}
    root = {name: _json(value) for name, value in {**own, **settings}.items()}
    attributes = {"/": root, "function": about_function}
    if symmetries is not None:
        root["symmetries"] = symmetries.to_json()
    present = {name: value for name, value in attributes.items() if name == "/" or name in groups}
    tree = az.from_dict(groups, dims=dims, attrs=present, check_conventions=False)
    for site, classes in axis_classes(symmetries, shapes).items():
        tree["posterior"][site].attrs["axes"] = json.dumps(classes)
    for name in derived:
        tree["posterior"][name].attrs["deterministic"] = 1
    if draws.thin > 1:
        _mark_thinned(tree, draws)
    return tree


def _mark_thinned(tree: xr.DataTree, draws: Draws) -> None:
    """Say which draws have their weights, and add the group ``moments``: what is known of the weights of all draws."""
    posterior = tree["posterior"].to_dataset()
    posterior = posterior.assign_coords(draw=np.arange(posterior.sizes["draw"]) * draws.thin)
    tree["posterior"] = xr.DataTree(posterior)
    moments = {
        site: (("statistic", *posterior[site].dims[2:]), np.stack(list(known.values())))
        for site, known in draws.moments.items()
    }
    names = list(next(iter(draws.moments.values()), {}))
    coordinates = {name: x for name, x in posterior.coords.items() if name not in ("chain", "draw")}
    tree["moments"] = xr.DataTree(xr.Dataset(moments, {"statistic": names, **coordinates}))


def symmetries_of(tree: xr.DataTree) -> Symmetries | None:
    """The symmetries that a tree carries, if it carries any."""
    text = tree.attrs.get("symmetries")
    return None if text is None else Symmetries.from_json(text)


def _check_sites(symmetries: Symmetries, weights: Mapping[str, np.ndarray]) -> None:
    for site, shape in symmetries.likelihood.sites.items():
        got = weights[site].shape[2:] if site in weights else None
        if got != shape:
            there = "is not among the draws" if got is None else f"has shape {got} in the draws"
            raise ValueError(
                f"the symmetries are of a model whose site {site!r} has shape {shape}, but it {there}; "
                "pass find_symmetries(posterior) of the posterior that was sampled"
            )


def _function(draws: Draws) -> tuple[np.ndarray | None, list[str], dict[str, str]]:
    """The function level: its array, its dims beyond chain and draw, and what it is (`levels.FunctionKind`)."""
    pointwise = None
    if draws.pointwise:
        pointwise = np.concatenate([array.reshape(*array.shape[:2], -1) for array in draws.pointwise.values()], axis=2)
    function, probes = draws.function, draws.probes
    if isinstance(probes, str):
        return function, [], {"kind": "site", "meaning": f"the deterministic site {probes!r}"}
    meaning = "the log likelihood of each observation"
    if function is None:
        return pointwise, ["observation"], {"kind": "instead", "meaning": f"{meaning}, the function being too large"}
    if probes is None and pointwise is not None and function.shape == pointwise.shape:
        return pointwise, ["observation"], {"kind": "pointwise", "meaning": meaning}
    dims = ["probe", "output"][: function.ndim - 2] if function.ndim <= 4 else []
    where = "training" if probes is None else "probe"
    meaning = f"the network's output at {function.shape[2]} {where} inputs"
    return function, dims, {"kind": "network", "meaning": meaning}


def _settings(draws: Draws) -> dict[str, Any]:
    """What the draws themselves tell of how they were made; a run's manifest tells more."""
    kernel: Any = draws.kernel
    settings = {field.name: getattr(kernel, field.name) for field in dataclasses.fields(kernel)} if kernel else {}
    return {
        "versions": {name: _version(name) for name in _LIBRARIES},
        "kernel": {"name": type(kernel).__name__, "settings": settings},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return None


def _json(value: Any) -> str:
    """Strings as they are, everything else as JSON text: the one form that NetCDF, Zarr and Python all keep."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _predictive(draws: Draws, rng_key: PRNGKeyArray) -> xr.DataTree:
    """New data at the training inputs for every draw; evenly thinned, as the coordinate ``draw`` says, if too many."""
    numbers = sum(array.size for array in draws.posterior.observed_data().values())
    room = _PREDICTIVE_NUMBERS // max(1, numbers * draws.num_chains)
    num_weights = -(-draws.num_draws // draws.thin)
    count = max(1, min(num_weights, room))
    kept = np.linspace(0, num_weights - 1, count).astype(int)
    weights = {site: array[:, kept] for site, array in draws.weights.items()}
    predicted = draws.posterior.predict(weights, rng_key=rng_key)
    arrays = {site: np.asarray(array) for site, array in predicted.items()}
    tree = az.from_dict({"posterior_predictive": arrays}, coords={"draw": kept * draws.thin}, check_conventions=False)
    return tree.children["posterior_predictive"]


def _add_precisions(tree: xr.DataTree, draws: Draws, symmetries: Symmetries) -> None:
    """Add the group ``precision`` where the likelihood has scales and the precisions measure a mass on their orbits."""
    scales = symmetries.likelihood.monomial().restrict(("scale",))
    if not scales.factors:
        return
    constant, gaussian = precisions_on_orbits(draws.posterior, draws.weights, scales)
    precisions = prior_precisions(draws.posterior, draws.weights, scale_sites(scales))
    if not precisions or not constant:
        return
    dims = {site: tree["posterior"][site].dims for site in precisions}
    dataset = xr.Dataset(
        {site: (dims[site][-array.ndim :] if array.ndim else (), array) for site, array in precisions.items()},
        attrs={"gaussian": int(gaussian)},
    )
    tree["precision"] = xr.DataTree(dataset)
