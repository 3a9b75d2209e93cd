"""A bare function ``apply(params, x)`` as discovery reads it: floating-point arrays by name, everything else beside.

What cannot be read is refused here, in one sentence that says what was expected, what came and what to do.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.errors
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .trace import Shapes, abstract_weights

_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
# By name, for this package does not depend on Flax.
_STATEFUL = ("TraceContextError", "ModifyScopeVariableError")
_STATE = (
    "apply must be a pure function of params and x, but it changes the state of something else ({}); evaluate without "
    "updating statistics, or, with Flax NNX, split the module by nnx.split(module, nnx.Param, ...), pass the rest as "
    "part of x, and merge inside apply"
)
_RANDOM = re.compile(r"\bPRNG\b|\brngs?\b|requires a key", re.IGNORECASE)
# Frames of these are never where a user's mistake is.
_NOT_THE_USERS = ("site-packages", str(Path(__file__).parents[1]), "<frozen")


@dataclass(frozen=True, eq=False)
class Function:
    """``apply(params, x)`` as a function of its inputs and of the floating-point arrays among its parameters.

    Args:
        apply: The function as it came.
        structure: Tree of all leaves of the parameters.
        names: Dotted path of each leaf.
        sites: Shape of each floating-point array.
        fixed: Other leaves whose values are known; they are part of the program.
        inputs: ``x``, and the shapes of other leaves whose values are not known.
    """

    apply: Callable[[Any, Any], Any]
    structure: Any
    names: tuple[str, ...]
    sites: Shapes
    fixed: Mapping[str, Any]
    inputs: tuple[Any, Mapping[str, Any]]

    @classmethod
    def of(cls, apply: Callable[[Any, Any], Any], params: Any, x: Any) -> Function:
        """Take the parameters apart.

        Raises:
            ValueError: If there are no floating-point arrays among the parameters, or something else than arrays in
                the inputs, or the function cannot be traced.
        """
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        leaves = {_dotted(path): leaf for path, leaf in paths}
        if len(leaves) < len(paths):
            raise ValueError(
                "the parameters must have different dotted paths, but two share one; rename a key with a dot"
            )
        sites = {name: tuple(leaf.shape) for name, leaf in leaves.items() if _is_parameter(leaf)}
        if not sites:
            raise ValueError(_no_parameters(leaves))
        for leaf in jax.tree.leaves(x):
            if not _is_array(leaf):
                raise ValueError(
                    "the inputs x must be a pytree of arrays or jax.ShapeDtypeStruct, but a leaf is of type "
                    f"{type(leaf).__name__}; bind what is no array beforehand, as in functools.partial"
                )
        unknown = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, jax.ShapeDtypeStruct)}
        given = {name: leaf for name, leaf in unknown.items() if name not in sites}
        fixed = {name: leaf for name, leaf in leaves.items() if name not in sites and name not in given}
        function = cls(apply, structure, tuple(leaves), sites, fixed, (x, given))
        function.check()
        return function

    def __call__(self, inputs: tuple[Any, Mapping[str, Any]], weights: Mapping[str, Any]) -> Any:
        """The outputs."""
        x, given = inputs
        leaves = {**self.fixed, **given, **weights}
        return self.apply(jax.tree.unflatten(self.structure, [leaves[name] for name in self.names]), x)

    def check(self) -> None:
        """Refuse a function that cannot be traced or has no outputs.

        Raises:
            ValueError: With what has to be changed.
        """
        try:
            closed, outputs = jax.make_jaxpr(self, return_shape=True)(self.inputs, abstract_weights(self.sites))
        except Exception as error:
            raise ValueError(_refusal(error, self.inputs[0])) from error
        if any(isinstance(constant, Tracer) for constant in closed.consts):
            raise ValueError(_STATE.format("it reads an array that an earlier run of it has stored"))
        if not jax.tree.leaves(outputs):
            raise ValueError("apply(params, x) must return what a symmetry leaves unchanged, arrays; it returned none")


def _refusal(error: Exception, x: Any) -> str:
    """What to do about an error that came up while tracing."""
    said = str(error).partition("\n")[0].partition(" (https://")[0].strip().rstrip(".")
    at = _place(error)
    said = f"{type(error).__name__}: {said}{at}"
    if isinstance(error, _UNTRACEABLE):
        return (
            f"apply must be traceable by JAX, but Python itself needs numbers out of an array{at} (an `if`, a loop, "
            "float() or NumPy); use jnp.where, jax.lax.cond or jax.lax.scan there, and jnp for np"
        )
    if isinstance(error, jax.errors.UnexpectedTracerError) or type(error).__name__ in _STATEFUL:
        return _STATE.format(said)
    if type(error).__name__ == "InvalidRngError" or (isinstance(error, RuntimeError) and _RANDOM.search(said)):
        return (
            f"apply needs a random key ({said}), and the function of the weights is not one function then; switch the "
            "noise off (deterministic=True, train=False, inference mode), or pass a key as part of x"
        )
    if isinstance(error, TypeError) and "valid JAX type" in said:
        return f"apply(params, x) must return arrays, a pytree of them if there are several; JAX says {said}"
    shapes = ", ".join(f"{jnp.result_type(leaf)}{list(np.shape(leaf))}" for leaf in jax.tree.leaves(x)) or "nothing"
    return (
        f"apply(params, x) must run on the given params and an x of {shapes}, but raised {said}; check the order of "
        "its arguments and that the shapes of params and x fit each other"
    )


def _place(error: Exception) -> str:
    """Where in the user's own files an error came up."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _NOT_THE_USERS)]
    return f" at line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""


def _no_parameters(leaves: Mapping[str, Any]) -> str:
    came = [f"{name} ({getattr(leaf, 'dtype', type(leaf).__name__)})" for name, leaf in leaves.items()]
    listed = ", ".join(came[:3]) + (", ..." if len(came) > 3 else "")
    return (
        f"the parameters must hold floating-point arrays, but they hold {listed or 'nothing'}; pass those of a network "
        "(shapes suffice), converted to floats if they are integers"
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, int | float | complex) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def _is_parameter(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, np.floating)


def _dotted(path: tuple[Any, ...]) -> str:
    """Name of a leaf; ``params`` where the parameters are one array."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value") or "params"
