"""ArviZ's summary of one group of a tree."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import arviz as az
import pandas as pd
import xarray as xr

from .levels import check_tree

MAX_ROWS = 1000


def summary(tree: xr.DataTree, *, group: str = "posterior", var_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Mean, standard deviation, interval, ESS, R-hat and Monte Carlo error, one row a quantity (`arviz.summary`).

    Args:
        tree: As `to_datatree` or `canonicalize` returns it.
        group: ``posterior``, ``canonical_posterior``, ``function`` or ``invariants``.
        var_names: Only these variables; default: all.

    Raises:
        ValueError: If the group or a variable is not there, or there are more than 1000 quantities to list.
    """
    check_tree(tree)
    if group not in tree.children:
        raise ValueError(f"a group among {', '.join(tree.children)} was expected, got {group!r}")
    dataset = tree[group].to_dataset()
    unknown = [name for name in var_names or () if name not in dataset.data_vars]
    if unknown:
        known = ", ".join(map(str, dataset.data_vars))
        raise ValueError(f"variables among {known} were expected, got {', '.join(unknown)}")
    chosen = dataset if var_names is None else dataset[list(var_names)]
    if not {"chain", "draw"} <= set(chosen.dims):
        raise ValueError(f"a group of draws was expected, but {group!r} has no chains and draws")
    rows = sum(array[{"chain": 0, "draw": 0}].size for array in chosen.data_vars.values())
    if rows > MAX_ROWS:
        raise ValueError(
            f"{group} has {rows} quantities, more than the {MAX_ROWS} that a summary can list; "
            "choose some with var_names"
        )
    # ArviZ subtracts, which flags such as `diverging` cannot.
    flags = {name: array.astype(float) for name, array in chosen.data_vars.items() if array.dtype == bool}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # R-hat of what never changes
        return cast(pd.DataFrame, az.summary(chosen.assign(flags)))
