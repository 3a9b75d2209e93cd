"""What cannot be read is refused in one sentence: what was expected, what came, what to do."""

import re

import equinox as eqx
import jax
import jax.errors
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from truth import S, Z, factors, shapes

from symmetry.discovery import find_symmetries

X = jnp.ones((5, 3))
WEIGHTS = {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}


def network(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def branching(params, x):
    return network(params, x) if params["w"].sum() > 0 else x


def looping(params, x):
    for _ in range(jnp.round(params["w"][0, 0]).astype(int)):
        x = x @ params["w"]
    return x


class Counting(nnx.Module):
    """Counts how often it was called."""

    def __init__(self):
        self.layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        self.calls = nnx.Variable(jnp.array(0))

    def __call__(self, x):
        self.calls[...] += 1
        return self.layer(x)


class Noisy(linen.Module):
    """A perceptron with dropout and normalisation, as they are in training if not told otherwise."""

    train: bool
    dropout: bool = False

    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=not self.train)(jnp.tanh(linen.Dense(4)(x)))
        return linen.Dense(2)(linen.Dropout(0.5, deterministic=not self.dropout)(x))


COUNTING = Counting()
VARIABLES = Noisy(train=False).init(jax.random.key(0), X)
DROPOUT = eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=jax.random.key(0)), eqx.nn.Dropout()])
REMEMBERED = []


def remembering(params, x):
    REMEMBERED.append(x @ params["w"])
    return REMEMBERED[0] @ params["v"]


UNTRACEABLE = {
    "a branch": branching,
    "NumPy": lambda params, x: np.tanh(np.asarray(x @ params["w"])) @ params["v"],
    "a float": lambda params, x: float(params["w"][0, 0]) * x,
    "a loop": looping,
    "a mask": lambda params, x: x[x @ params["w"][:, 0] > 0],
}


@pytest.mark.parametrize("case", UNTRACEABLE)
def test_functions_that_cannot_be_traced(case):
    message = "apply must be traceable by JAX, but Python itself needs numbers out of an array at line"
    with pytest.raises(ValueError, match=message) as refusal:
        find_symmetries(UNTRACEABLE[case], WEIGHTS, X)
    assert "test_bad_input.py" in str(refusal.value)
    assert "use jnp.where" in str(refusal.value)
    assert isinstance(refusal.value.__cause__, jax.errors.JAXTypeError | jax.errors.JAXIndexError)


@pytest.mark.parametrize(
    ("apply", "params", "reason"),
    [
        (lambda params, x: COUNTING(x) @ params["u"], {"u": jnp.ones((2, 2))}, "TraceContextError"),
        (Noisy(train=True).apply, VARIABLES, "ModifyScopeVariableError"),
    ],
)
def test_functions_that_change_something_else(apply, params, reason):
    with pytest.raises(ValueError, match=rf"must be a pure function .*{reason}.* split the module by nnx.split"):
        find_symmetries(apply, params, X)


def test_a_function_that_reads_what_an_earlier_run_has_stored():
    REMEMBERED.clear()
    jax.eval_shape(remembering, WEIGHTS, X)
    with pytest.raises(ValueError, match=r"must be a pure function .*reads an array that an earlier run"):
        find_symmetries(remembering, WEIGHTS, X)


@pytest.mark.parametrize(
    ("apply", "params"),
    [
        (Noisy(train=False, dropout=True).apply, VARIABLES),
        (lambda params, x: jax.vmap(params)(x), DROPOUT),
    ],
)
def test_functions_that_need_a_random_key(apply, params):
    with pytest.raises(ValueError, match=r"apply needs a random key .* switch the noise off .* or pass a key"):
        find_symmetries(apply, params, X)


@pytest.mark.parametrize(
    ("params", "came"),
    [
        ({"w": jnp.ones((3, 4), int)}, re.escape("they hold w (int32)")),
        ({"a": [1, 2], "b": "text", "c": np.ones(2, bool)}, re.escape("they hold a.0 (int), a.1 (int), b (str), ...")),
        ({"w": jnp.ones((3, 4), complex)}, "complex64"),
        (object(), re.escape("they hold params (object)")),
        ({}, "they hold nothing"),
        (None, "they hold nothing"),
    ],
)
def test_parameters_without_floating_point_numbers(params, came):
    with pytest.raises(ValueError, match=rf"must hold floating-point arrays, but .*{came}.*pass those of a network"):
        find_symmetries(network, params, X)


def test_one_array_is_called_params():
    found = find_symmetries(lambda w, x: (jnp.tanh(x @ w) ** 2).sum(1), jnp.ones((3, 4)), X).likelihood
    assert found.axes == {"params": (None, "params_dim_1")}
    assert factors(found) == {S(4): 1, Z(4): 1}


def test_two_parameters_of_one_name():
    with pytest.raises(ValueError, match="must have different dotted paths, but two share one"):
        find_symmetries(network, {"a": {"b": X}, "a.b": X}, X)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda params, x: "text", "must return arrays, .*type <class 'str'>"),
        (lambda params, x: None, "must return what a symmetry leaves unchanged, arrays; it returned none"),
        (lambda params, x: {}, "it returned none"),
        (lambda params, x: x, "depend on none of the parameters; return what the model makes of them"),
        (lambda params, x: 0 * x, "depend on none of the parameters"),
    ],
)
def test_outputs_that_tell_nothing(apply, message):
    with pytest.raises(ValueError, match=message):
        find_symmetries(apply, WEIGHTS, X)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_outputs_that_are_nowhere_finite(value):
    def apply(params, x):
        return network(params, x) + value

    with pytest.raises(ValueError, match=r"is NaN or infinite at all parameters that were tried.* certify=False"):
        find_symmetries(apply, WEIGHTS, X)
    group = find_symmetries(apply, WEIGHTS, X, certify=False).likelihood
    assert [(factor.kind, factor.size) for factor in group.factors][0] == ("permutation", 4)


@pytest.mark.parametrize(
    ("apply", "params", "x", "said"),
    [
        (network, WEIGHTS, X[:, :2], r"an x of float32\[5, 2\], but raised TypeError: dot_general requires .* at line"),
        (Noisy(train=False).apply, VARIABLES, X[:, :2], "ScopeParamShapeError: For parameter"),
        (Noisy(train=False).apply, VARIABLES["params"], X, "ScopeCollectionNotFound"),
        (network, {"w": jnp.ones((3, 4))}, X, "KeyError: 'v' at line"),
        (lambda x, params: network(params, x), WEIGHTS, X, "check the order of its arguments"),
        (COUNTING, WEIGHTS, X, r"Counting.__call__\(\) takes 2 positional arguments but 3 were given"),
        (network, WEIGHTS, (), "an x of nothing"),
    ],
)
def test_arguments_that_do_not_fit(apply, params, x, said):
    with pytest.raises(ValueError, match=rf"must run on the given params and .*{said}") as refusal:
        find_symmetries(apply, params, x)
    assert refusal.value.__cause__ is not None


def test_inputs_that_are_no_arrays():
    with pytest.raises(ValueError, match=r"must be a pytree of arrays .* but a leaf is of type str; bind what"):
        find_symmetries(network, WEIGHTS, {"x": X, "mode": "train"})


@pytest.mark.parametrize("case", [*UNTRACEABLE, "shapes"])
def test_refusals_are_one_sentence(case):
    with pytest.raises(ValueError, match="apply") as refusal:
        find_symmetries(UNTRACEABLE.get(case, network), WEIGHTS, X[:, :3] if case in UNTRACEABLE else X[:, :1])
    message = str(refusal.value)
    assert "\n" not in message
    assert len(message) < 400


def test_states_may_be_parameters_and_integers_beside_them():
    """What is no weight stays what it is: numbers of the program where they are known, else arguments."""
    graph, state = nnx.split(Counting())
    weights = shapes(w=(3, 4), v=(4, 2)) | {"shift": jax.ShapeDtypeStruct((), jnp.int32), "repeat": 2}

    def apply(params, x):
        for _ in range(params["repeat"]):
            x = jnp.tanh(x) + params["shift"]
        return network(params, x)

    assert factors(find_symmetries(apply, weights, X).likelihood) == {S(4): 1, Z(4): 1}
    assert find_symmetries(lambda params, x: nnx.merge(graph, params)(x), state, X).likelihood.factors == ()
