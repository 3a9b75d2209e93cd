"""Trees on disk, and runs read back.

A run folder holds blocks of draws (`inference.read_run`) and, once finished, the whole tree as ``tree.nc``. Reading
either executes nobody's Python: the symmetries lie beside the manifest as JSON.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import arviz as az
import xarray as xr

from inference import read_data, read_run
from symmetry import Symmetries

from .datatree import build_tree
from .quotient import canonicalize

TREE_FILE = "tree.nc"
SYMMETRIES_FILE = "symmetries.json"


def save(tree: xr.DataTree, path: str | Path) -> None:
    """Write a tree to NetCDF (``.nc``) or Zarr (``.zarr``), losslessly; nothing half-written ever bears the name.

    Raises:
        ValueError: If the name ends otherwise.
    """
    path = Path(path)
    unfinished = path.with_name(f".unfinished.{path.name}")
    if path.suffix == ".nc":
        tree.to_netcdf(unfinished, engine="h5netcdf")
    elif path.suffix == ".zarr":
        tree.to_zarr(unfinished, mode="w", consolidated=False)
    else:
        raise ValueError(f"a path ending in .nc (NetCDF) or .zarr (Zarr) was expected, got {str(path)!r}")
    if path.is_dir():
        shutil.rmtree(path)
    unfinished.replace(path)


def load(path: str | Path, *, lazy: bool = False) -> xr.DataTree:
    """Read a tree that `save` wrote.

    Args:
        path: A file ending in ``.nc`` or a folder ending in ``.zarr``.
        lazy: Leave the draws on disk until they are used, for a tree that is larger than the memory; the file then
            stays open until the tree's ``close()``.

    Raises:
        ValueError: If nothing is there, or it is no tree.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"a saved tree was expected at {str(path)!r}, but nothing is there")
    try:
        if path.is_file():
            opened = az.from_netcdf(path, engine="h5netcdf")
        else:
            opened = az.from_zarr(path, consolidated=False)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"a tree in NetCDF or Zarr was expected at {str(path)!r}, but it cannot be read") from error
    if "posterior" in opened.children and lazy:
        return opened
    with opened as tree:
        loaded = tree.load()
    if "posterior" not in loaded.children:
        raise ValueError(f"a tree with a posterior group was expected at {str(path)!r}, but it has none")
    return loaded


def save_run(tree: xr.DataTree, folder: str | Path) -> None:
    """Write a finished run's tree into its folder, where plain ArviZ opens it: ``az.from_netcdf("RUN/tree.nc")``."""
    save(tree, Path(folder) / TREE_FILE)


def open_run(path: str | Path, *, lazy: bool = False) -> xr.DataTree:
    """The tree of a run: a finished one's as it was saved, a killed one's from the draws it committed.

    Args:
        path: A run folder, or a tree in NetCDF or Zarr.
        lazy: As in `load`; a killed run's draws are always read.

    Returns:
        The tree, canonical where the run's symmetries are known. A run without a saved tree has no posterior predictive
        and no prior precisions, for its model is not executed.

    Raises:
        ValueError: If it is neither a run nor a tree.
    """
    path = Path(path)
    if path.suffix in (".nc", ".zarr"):
        return load(path, lazy=lazy)
    draws, manifest = read_run(path)
    saved = path / TREE_FILE
    if saved.exists() and saved.stat().st_mtime >= _last_write(path):
        return load(saved, lazy=lazy)
    attached = path / SYMMETRIES_FILE
    symmetries = Symmetries.from_json(attached.read_text()) if attached.exists() else None
    settings = {name: value for name, value in manifest.items() if name not in ("sites", "groups")}
    data = {name: arrays for name, arrays in read_data(path).items() if name != "probes"}
    tree = build_tree(draws, symmetries, data, settings)
    return tree if symmetries is None else canonicalize(tree)


def _last_write(folder: Path) -> float:
    return max(block.stat().st_mtime for block in folder.glob("group-*/block-*.npz"))
