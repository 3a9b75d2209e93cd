r"""Data sets as arrays: split once, standardised by their training rows alone.

.. math:: x' = (x - \bar x_{train}) / s_{train}

with the standard deviation s of each column, 1 where a column is constant. Test rows never touch the scalers. Targets
of a regression are standardised alike; classes are coded 0, 1, ... in sorted order.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

Task = Literal["regression", "classification"]

BUILT_IN = ("diabetes", "iris", "wine", "breast_cancer", "digits")

_MAX_TEST_ROWS = 50
_MAX_CLASSES = 20


@dataclass(frozen=True, eq=False)
class Scaler:
    """Standardisation of columns.

    Attributes:
        mean: What is subtracted.
        scale: What is divided by.
    """

    mean: Float[np.ndarray, " *column"]
    scale: Float[np.ndarray, " *column"]

    @classmethod
    def fit(cls, rows: Float[np.ndarray, " row *column"]) -> Scaler:
        """Mean and standard deviation of each column; constant columns keep the scale 1."""
        scale = rows.std(axis=0)
        return cls(np.asarray(rows.mean(axis=0)), np.where(scale > 0, scale, 1.0))

    def apply(self, rows: Float[np.ndarray, " *row"]) -> Float[np.ndarray, " *row"]:
        """Standardise rows."""
        return (rows - self.mean) / self.scale

    def invert(self, rows: Float[np.ndarray, " *row"]) -> Float[np.ndarray, " *row"]:
        """Return standardised rows to the original units."""
        return rows * self.scale + self.mean


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in two parts.

    Attributes:
        name: What it was loaded as.
        x_train: Standardised inputs to learn from.
        y_train: Their targets: standardised numbers, or classes.
        x_test: Inputs held out, standardised by the training rows.
        y_test: Their targets.
        feature_names: A name for each input.
        target_name: What the target is called.
        class_names: What each class is called; empty for a regression.
        x_scaler: How the inputs were standardised.
        y_scaler: How the targets were standardised; ``None`` for classes.
    """

    name: str
    x_train: Float[np.ndarray, "train input"]
    y_train: Shaped[np.ndarray, " train *output"]
    x_test: Float[np.ndarray, "test input"]
    y_test: Shaped[np.ndarray, " test *output"]
    feature_names: tuple[str, ...]
    target_name: str
    class_names: tuple[str, ...]
    x_scaler: Scaler
    y_scaler: Scaler | None

    @property
    def task(self) -> Task:
        """Whether the targets are numbers or classes."""
        return "classification" if self.class_names else "regression"


@dataclass(frozen=True, eq=False)
class _Table:
    """A data set as it was read."""

    x: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]
    target_name: str
    class_names: tuple[str, ...] = ()


def load(
    name: str | Path,
    seed: int = 0,
    num_test: int | None = None,
    target: str | int | None = None,
    task: Task | None = None,
) -> Data:
    """Load, split and standardise a data set.

    Args:
        name: One of scikit-learn's built-in sets (`BUILT_IN`, no download), or the path of an ``.npz`` file with the
            arrays ``x`` (or ``X``) and ``y``, or of a ``.csv`` file of numbers with or without a header.
        seed: Which rows are held out: the first of ``numpy.random.default_rng(seed).permutation``.
        num_test: How many; a fifth of them and at most 50 if not given.
        target: Name or number of the target's column in a ``.csv`` file; the last if not given.
        task: What the targets are; if not given, text and whole numbers of at most 20 different values are classes.

    Returns:
        The data.

    Raises:
        ValueError: If there is no such data set, file or column, it holds anything but finite numbers, or the seed is
            negative.

    Example:
        >>> from bnn_models import datasets
        >>> data = datasets.load("diabetes", seed=0)
        >>> data.x_train.shape, data.y_test.shape, data.task
        ((392, 10), (50,), 'regression')
    """
    if seed < 0:
        raise ValueError(f"seed chooses the rows held out and should be a whole number of at least 0, got {seed}.")
    table = _read(str(name), target)
    _check_finite(str(name), table)
    y, class_names = _encode(table, task)
    num_rows = len(table.x)
    num_test = min(num_rows // 5, _MAX_TEST_ROWS) if num_test is None else num_test
    if not 0 < num_test < num_rows:
        raise ValueError(
            f"num_test should lie between 1 and {num_rows - 1} for the {num_rows} rows of {name}, got {num_test}."
        )
    order = np.random.default_rng(seed).permutation(num_rows)
    test, train = order[:num_test], order[num_test:]
    x_scaler = Scaler.fit(table.x[train])
    y_scaler = None if class_names else Scaler.fit(y[train])
    x = x_scaler.apply(table.x)
    y = y if y_scaler is None else y_scaler.apply(y)
    return Data(
        name=str(name),
        x_train=x[train],
        y_train=y[train],
        x_test=x[test],
        y_test=y[test],
        feature_names=table.feature_names,
        target_name=table.target_name,
        class_names=class_names,
        x_scaler=x_scaler,
        y_scaler=y_scaler,
    )


def _read(name: str, target: str | int | None) -> _Table:
    suffix = Path(name).suffix
    if suffix == ".csv":
        return _read_csv(_existing(name), target)
    if target is not None:
        raise ValueError(f"`target` names a column of a .csv file, but {name!r} is none; leave it out.")
    if suffix == ".npz":
        return _read_npz(_existing(name))
    if name in BUILT_IN:
        return _read_built_in(name)
    raise ValueError(
        f"Unknown data set {name!r}; choose one of {', '.join(BUILT_IN)}, or give the path of an .npz or .csv file."
    )


def _existing(name: str) -> Path:
    if not Path(name).is_file():
        raise ValueError(
            f"The data file {name} does not exist; check its path (the working directory is {Path.cwd()})."
        )
    return Path(name)


def _read_built_in(name: str) -> _Table:
    import sklearn.datasets  # takes a second, and only this function needs it

    loader: Callable[[], Any] = getattr(sklearn.datasets, f"load_{name}")
    bunch = loader()
    class_names = () if name == "diabetes" else tuple(str(label) for label in bunch.target_names)
    y = bunch.target if class_names else bunch.target.astype(float)
    features = tuple(str(feature) for feature in bunch.feature_names)
    return _Table(bunch.data.astype(float), y, features, "progression" if name == "diabetes" else "class", class_names)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file.

    Raises:
        ValueError: If it cannot be read as one.
    """
    try:
        # Opened here: NumPy forgets to close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # NumPy's readers raise whatever the bytes lead them to
        raise ValueError(
            f"{path} could not be read as an .npz file of plain arrays; write one with numpy.savez."
        ) from error


def _read_npz(path: Path) -> _Table:
    content = read_npz(path)
    key = next((key for key in ("x", "X") if key in content), None)
    if key is None or "y" not in content:
        raise ValueError(f"{path} should hold the arrays x (or X) and y, but holds {sorted(content)}.")
    x, y = content[key], content["y"]
    if x.ndim != 2 or y.ndim not in (1, 2) or len(x) != len(y) or x.dtype.kind not in "biuf":
        raise ValueError(
            f"{path} should hold numbers x of shape (rows, inputs) and y with as many rows, but x is {x.dtype} "
            f"{x.shape} and y is {y.dtype} {y.shape}."
        )
    return _Table(x.astype(float), y, tuple(f"x{i}" for i in range(x.shape[1])), "y")


def _read_csv(path: Path, target: str | int | None) -> _Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    if not rows:
        raise ValueError(f"{path} is empty; give it one row for each observation.")
    has_header = not any(_is_number(cell) for cell in rows[0])
    header = rows.pop(0) if has_header else [f"x{i}" for i in range(len(rows[0]))]
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if ragged is not None:
        raise ValueError(
            f"Row {ragged + 1} of {path} has {len(rows[ragged])} cells, but there are {len(header)} columns."
        )
    column = _target_column(path, header, target)
    features = [i for i in range(len(header)) if i != column]
    if not features or not rows:
        raise ValueError(f"{path} needs a target, at least one other column, and rows of data below a header.")
    x = np.array([[_number(path, header[i], row[i]) for i in features] for row in rows])
    return _Table(
        x, _numbers_or_text([row[column] for row in rows]), tuple(header[i] for i in features), header[column]
    )


def _target_column(path: Path, header: list[str], target: str | int | None) -> int:
    if target is None:
        return len(header) - 1
    if isinstance(target, int) and -len(header) <= target < len(header):
        return target % len(header)
    if target in header:
        return header.index(str(target))
    raise ValueError(f"{path} has no column {target!r}; its columns are {', '.join(header)}.")


def _number(path: Path, column: str, cell: str) -> float:
    """A cell as a number; empty cells are missing values."""
    if cell and not _is_number(cell):
        raise ValueError(f"Column {column!r} of {path} holds the text {cell!r}; encode it as numbers or leave it out.")
    return float(cell) if cell else np.nan


def _numbers_or_text(cells: Sequence[str]) -> np.ndarray:
    if not all(not cell or _is_number(cell) for cell in cells):
        return np.array(cells)
    if all(cell.lstrip("+-").isdigit() for cell in cells):
        return np.array([int(cell) for cell in cells])
    return np.array([float(cell) if cell else np.nan for cell in cells])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_finite(name: str, table: _Table) -> None:
    columns = dict(zip(table.feature_names, table.x.T, strict=True)) | {table.target_name: table.y}
    for column, values in columns.items():
        if values.dtype.kind != "f":
            continue
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if bad.size:
            raise ValueError(
                f"Column {column!r} of {name} is missing, NaN or infinite in {bad.size} of {len(values)} rows, first "
                f"in row {bad[0] + 1}; drop or impute them first."
            )


def _encode(table: _Table, task: Task | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Targets as numbers, and the names of the classes."""
    if task is None:
        is_text = table.y.dtype.kind in "USb"
        is_few = table.y.ndim == 1 and table.y.dtype.kind in "iu" and len(np.unique(table.y)) <= _MAX_CLASSES
        task = "classification" if is_text or is_few else "regression"
    if task == "regression":
        if table.y.dtype.kind not in "iuf":
            raise ValueError(f"A regression needs numbers as targets, but {table.target_name!r} holds {table.y.dtype}.")
        return table.y.astype(float), ()
    labels, codes = np.unique(table.y, return_inverse=True)
    return codes, table.class_names or tuple(str(label) for label in labels)
