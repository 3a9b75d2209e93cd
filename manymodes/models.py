"""From what a user types to a `Posterior`: a Python file with a NumPyro ``model``, or a network by name."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from bnn_models import Posterior


_OF_NETWORKS = ("activation", "prior", "fan-in", "likelihood", "split")


def add_model_arguments(parser: argparse.ArgumentParser, defines: str = "a NumPyro `model`") -> None:
    """Add the arguments that say which posterior is meant."""
    parser.add_argument("model", nargs="?", metavar="MODEL.py", help=f"Python file that defines {defines}")
    parser.add_argument(
        "--data", metavar="FILE", help=".npz or .csv whose arrays go to the model's arguments of the same name"
    )
    named = parser.add_argument_group("instead of MODEL.py, a network by name")
    named.add_argument("--network", metavar="SPEC", help="such as mlp:50,50 (widths of the hidden layers)")
    named.add_argument("--activation", metavar="NAME", help="of the hidden layers (default: tanh)")
    named.add_argument("--prior", metavar="SPEC", help="such as normal:scale=1 or student_t:df=4 (default: normal)")
    named.add_argument("--fan-in", action="store_true", help="divide the prior scale of kernels by sqrt(fan-in)")
    named.add_argument("--likelihood", metavar="SPEC", help="such as normal:scale=0.5 (default: by the target's type)")
    named.add_argument("--dataset", metavar="NAME", help="a built-in data set such as diabetes, or a .npz or .csv file")
    named.add_argument("--split", type=int, metavar="SEED", help="seed of the train/test split (default: 0)")


def is_given(value: object) -> bool:
    """Whether an option was typed: zero and the empty string are values too."""
    return value is not None and value is not False


def posterior_from(options: argparse.Namespace) -> tuple[Posterior, np.ndarray | None]:
    """Return the posterior that the options describe and its probe inputs, where it has some.

    Raises:
        ValueError: If the options name neither or both of a model file and a network, or do not fit together.
    """
    check_source(options)
    if options.network is not None:
        return _posterior_by_name(options)
    path = Path(options.model)
    return posterior_of(load_file(path), path, read_data(options)), None


def check_source(options: argparse.Namespace) -> None:
    """Refuse options that name no model, two, or settings of another.

    Raises:
        ValueError: With what to leave out or to add.
    """
    if (options.model is None) == (options.network is None):
        raise ValueError("expected either MODEL.py or --network (with --dataset); see --help")
    if options.model is not None:
        if options.dataset is not None:
            raise ValueError("--dataset goes with --network; give the arrays of MODEL.py with --data")
        given = [flag for flag in _OF_NETWORKS if is_given(getattr(options, flag.replace("-", "_")))]
        if given:
            raise ValueError(f"--{given[0]} goes with --network; MODEL.py says itself what the model is")
        return
    if options.dataset is None:
        raise ValueError("--network needs --dataset, a built-in name such as diabetes or a .npz or .csv file")
    if options.data is not None:
        raise ValueError("--data goes with MODEL.py; --network takes its data from --dataset")


def posterior_of(module: ModuleType, path: Path, arrays: Mapping[str, Any]) -> Posterior:
    """Return the posterior of the ``model`` that an executed file defines, with these arrays as its data."""
    from bnn_models import Posterior

    model = getattr(module, "model", None)
    if not callable(model):
        raise ValueError(f"expected {path} to define a function `model`; it does not")
    return Posterior(model, **bind(model, arrays))


def read_data(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Read the arrays after --data, if there are any."""
    return read_arrays(Path(options.data)) if options.data else {}


def load_file(path: Path) -> ModuleType:
    """Execute the Python file at ``path``."""
    if not path.is_file():
        raise ValueError(f"expected a Python file that defines the model; there is no file {path}")
    # A name that hides no other module; classes in the file find their module by it.
    name = f"{path.stem}__of_manymodes"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python file that defines the model; {path} does not end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} could not be executed: {type(error).__name__}: {error}") from error
    return module


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file or the columns of a ``.csv`` file with a header line."""
    import numpy as np

    if not path.is_file():
        raise ValueError(f"expected a .npz or .csv file after --data; there is no file {path}")
    if path.suffix not in (".npz", ".csv"):
        raise ValueError(f"expected --data to end in .npz or .csv; got {path.name}")
    if path.suffix == ".npz":
        from bnn_models import datasets

        return {name: _number_or_array(array) for name, array in datasets.read_npz(path).items()}
    try:
        table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8", ndmin=1)
    except ValueError as error:
        raise ValueError(f"{path} could not be read as a .csv file: {error}") from error
    if table.dtype.names is None:
        raise ValueError(f"expected a header line with the names of the columns in {path}")
    return {name: table[name] for name in table.dtype.names}


def _number_or_array(array: np.ndarray) -> Any:
    """Whole numbers and flags as Python's own: a size of a plate, a choice; a traced model could not use arrays."""
    return array.item() if array.ndim == 0 and array.dtype.kind in "biu" else array


def bind(model: Callable[..., Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Match arrays to the arguments of ``model`` by name, or say which name fits nowhere.

    Raises:
        ValueError: If an array bears the name of no argument, or a required argument has no array.
    """
    from bnn_models.arguments import signature_of

    parameters = signature_of(model).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(arrays)
    takes = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [name for name in arrays if name not in takes]
    if unknown:
        raise ValueError(
            f"the data hold {', '.join(unknown)}, but no argument of the model bears that name;"
            f" the model takes {', '.join(takes) or 'no arguments'}"
        )
    missing = [name for name in takes if name not in arrays and parameters[name].default is inspect.Parameter.empty]
    if missing:
        raise ValueError(
            f"the model needs {', '.join(missing)}, which the data do not hold; give them with --data, .npz or .csv"
        )
    return dict(arrays)


def _posterior_by_name(options: argparse.Namespace) -> tuple[Posterior, np.ndarray]:
    from bnn_models import BNN, Posterior, datasets, likelihoods, networks, priors

    data = datasets.load(options.dataset, seed=_default(options.split, 0))
    kind, _, widths = options.network.partition(":")
    if kind != "mlp":
        raise ValueError(f"expected --network mlp:WIDTH,WIDTH,...; got {options.network}")
    hidden = [_whole_number(width, "--network") for width in widths.split(",") if width]
    by_task = {"classification": "categorical", "regression": "normal"}[data.task]
    likelihood = _by_name(likelihoods, _default(options.likelihood, by_task), "likelihood")
    if data.task == "regression" and likelihood == likelihoods.categorical():
        raise ValueError(
            f"the target of {options.dataset} is taken for a number; --likelihood categorical needs classes: text, or"
            " whole numbers of at most 20 different values"
        )
    outputs = len(data.class_names) if likelihood == likelihoods.categorical() else 1
    network = networks.mlp([data.x_train.shape[1], *hidden, outputs], activation=_default(options.activation, "tanh"))
    prior = _by_name(priors, _default(options.prior, "normal"), "prior")
    if options.fan_in:
        prior = priors.fan_in(prior)
    return Posterior(BNN(network, prior, likelihood), data.x_train, data.y_train), data.x_test


def _by_name(module: Any, spec: str, what: str) -> Any:
    """Call ``module.NAME(KEY=VALUE, ...)`` for the spec ``NAME:KEY=VALUE,...``."""
    name, _, settings = spec.partition(":")
    choices = [choice for choice in module.__all__ if choice != "fan_in"]
    if name not in choices:
        raise ValueError(f"expected a {what} out of {', '.join(choices)}; got {name}")
    factory = getattr(module, name)
    values: dict[str, float] = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key not in inspect.signature(factory).parameters:
            known = ", ".join(inspect.signature(factory).parameters) or "none"
            raise ValueError(f"the {what} {name} has the settings {known}; got {setting!r}")
        try:
            values[key] = float(value)
        except ValueError as error:
            raise ValueError(f"expected a number after {key}= in {spec!r}; got {value!r}") from error
    return factory(**values)


def _default[T](value: T | None, default: T) -> T:
    return default if value is None else value


def _whole_number(text: str, flag: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"expected whole numbers above zero after {flag}; got {text!r}")
    return int(text)
