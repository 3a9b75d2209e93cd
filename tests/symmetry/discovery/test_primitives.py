"""Rules one by one: small networks around one primitive each, and what every axis rule promises."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symmetry.discovery import find_symmetries
from symmetry.discovery.axes import atom, atoms, find
from symmetry.discovery.program import flatten
from symmetry.discovery.rules import AXIS_RULES

RNG = np.random.default_rng(5)
X = jnp.asarray(RNG.standard_normal((6, 3)), jnp.float32)
S, Z, R = "permutation", "sign", "scale"
GRAPH = jnp.array([0, 2, 1, 2, 0, 1])


def ones(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def kinds(network, params, x=X):
    group = find_symmetries(network, params, x).likelihood
    assert all(factor.certificate.error <= 1e-10 for factor in group.factors)
    return {(factor.kind, factor.size) for factor in group.factors}


def reason(network, params, site, axis):
    (pin,) = [p for p in find_symmetries(network, params, X).likelihood.pinned if (p.site, p.axis) == (site, axis)]
    return pin.reason


def around(middle, width=4):
    """``relu(x w)``, something in the middle, and a read-out of width 4 that is summed up."""

    def network(params, x):
        return middle(jax.nn.relu(x @ params["w"])) @ params["v"]

    return network, ones(w=(3, 4), v=(width, 2))


def by_rank(h):
    values, _ = jax.lax.top_k(h.T, 2)
    return values.T


def by_position(h):
    return jax.lax.top_k(h, 4)[0]


def at_row(h):
    return jax.lax.dynamic_update_slice(jnp.zeros((9, 4)), h, (jnp.argmax(h.sum(1)), 0))


def at_unit(h):
    return jax.lax.dynamic_update_slice(h, jnp.ones((6, 1)), (0, jnp.argmax(h.sum(0))))


def bits(h):
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(h, jnp.int32), jnp.float32)


UNITS = {(S, 4), (R, 4)}
NETWORKS = {
    # The rows, which are data, are moved about: the units keep all they have.
    "segment_sum": (around(lambda h: jax.ops.segment_sum(h, GRAPH, 3)), UNITS),
    "segment_max": (around(lambda h: jax.ops.segment_max(h, GRAPH, 3)), UNITS),
    "segment_prod": (around(lambda h: jax.ops.segment_prod(h, GRAPH, 3)), {(S, 4)}),
    "scatter rows": (around(lambda h: jnp.zeros((9, 4)).at[GRAPH].set(h)), UNITS),
    "computed row": (around(at_row), {(S, 4)}),
    "largest rows": (around(by_rank), UNITS),
    "fft of rows": (around(lambda h: jnp.abs(jnp.fft.fft(h, axis=0)) ** 2), {(S, 4)}),
    "rfft and back": (around(lambda h: jnp.fft.irfft(jnp.fft.rfft(h, axis=0) * 1j, 6, axis=0)), UNITS),
    "products of rows": (around(lambda h: jax.lax.associative_scan(jnp.add, h, axis=0)), UNITS),
    "row set to zero": (around(lambda h: h.at[2].set(0.0)), UNITS),
    "row added to": (around(lambda h: h.at[2].add(h[3])), UNITS),
    "padded rows": (around(lambda h: jnp.pad(h, ((1, 2), (0, 0)))), UNITS),
    "padded with ones": (around(lambda h: jnp.pad(h, ((1, 2), (0, 0)), constant_values=1.0)), {(S, 4)}),
    "repeated rows": (around(lambda h: jnp.tile(h, (2, 1))), UNITS),
    "barrier": (around(lambda h: jax.lax.optimization_barrier((h, 2.0 * h))[1]), UNITS),
    "device": (around(jax.device_put), UNITS),
    "complex": (around(lambda h: jnp.real(jax.lax.complex(h, 2.0 * h) * 1j)), UNITS),
    "bits": (around(bits), {(S, 4)}),
    "repeated units": (around(lambda h: jnp.tile(h, (1, 2)), 8), UNITS | {(S, 2)}),
    "padded units": (around(lambda h: jnp.pad(h, ((0, 0), (1, 2))), 7), UNITS),
    # The units are told apart, all of them or some.
    "computed unit": (around(at_unit), set()),
    "units by rank": (around(by_position), set()),
    "one unit set": (around(lambda h: h.at[:, 0].set(0.0)), {(S, 3), (R, 3)}),
    "one unit doubled": (around(lambda h: h.at[:, 0].multiply(2.0)), {(S, 3), (R, 3)}),
    "fft of units": (around(lambda h: jnp.abs(jnp.fft.fft(h))), set()),
}


@pytest.mark.parametrize(("network", "expected"), NETWORKS.values(), ids=NETWORKS)
def test_known_groups(network, expected):
    assert {kind for kind in kinds(*network) if kind[1] > 1} == expected


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (by_position, "position returned by top_k"),
        (at_unit, "position returned by argmax"),
        (lambda h: jnp.abs(jnp.fft.fft(h)), "position in fft"),
        (lambda h: jnp.interp(h, jnp.arange(3.0), jnp.arange(3.0) ** 2), "unsupported primitive call_hi_primitive"),
    ],
)
def test_what_is_pinned_says_why(middle, expected):
    assert reason(*around(middle), "w", 1) == expected


def test_a_cache_of_keys_and_values():
    """Decoding one token at a computed place: the heads and the units in each keep their groups."""

    def network(params, x):
        place = jnp.argmax(x[:, 0])
        q, k, v = ((x[:1] @ params[name]).reshape(1, 2, 3) for name in "qkv")
        keys = jax.lax.dynamic_update_slice(jnp.zeros((8, 2, 3)), k, (place, 0, 0))
        values = jax.lax.dynamic_update_slice(jnp.zeros((8, 2, 3)), v, (place, 0, 0))
        weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, keys), -1)
        return jnp.einsum("hts,shd->thd", weights, values).reshape(1, 6) @ params["out"]

    assert kinds(network, ones(q=(3, 6), k=(3, 6), v=(3, 6), out=(6, 2))) == {(S, 2), ("linear", 3)}


def test_experts_of_groups_of_rows():
    """Rows 0, 1 go to the first expert, the rest to the second: the units of the experts are free, the experts not."""

    def network(params, x):
        sizes = jnp.array([2, 4])
        h = jax.nn.relu(jax.lax.ragged_dot(x, params["w"], sizes))
        return jax.lax.ragged_dot(h, params["v"], sizes)

    assert kinds(network, ones(w=(2, 3, 4), v=(2, 4, 5))) == UNITS
    assert reason(network, ones(w=(2, 3, 4), v=(2, 4, 5)), "w", 0) == "row in a group, or group"


def test_rotary_embeddings_leave_the_units_of_values_free():
    """The pairs of queries and keys turn at speeds of their own."""
    rotate = eqx.nn.RotaryPositionalEmbedding(4)

    def network(params, x):
        q, k, v = (x @ params[name] for name in "qkv")
        return jax.nn.softmax(rotate(q) @ rotate(k).T) @ v @ params["out"]

    params = ones(q=(3, 4), k=(3, 4), v=(3, 4), out=(4, 2))
    assert kinds(network, params) >= {("linear", 4)}
    assert "unequal constants" in reason(network, params, "q", 1)


# name -> (function, arguments): one primitive each, with dimensions of different lengths.
F = np.float32
PRIMITIVES = {
    "broadcast": (lambda x: jax.lax.broadcast_in_dim(x, (2, 3, 5), (1,)), [(3,)]),
    "transpose": (lambda x: x.transpose(2, 0, 1), [(2, 3, 5)]),
    "reshape": (lambda x: x.reshape(2, 15), [(2, 3, 5)]),
    "strided": (lambda x: x[:, ::2, :], [(2, 6, 5)]),
    "slice": (lambda x: x[:, 1:3], [(2, 6, 5)]),
    "reverse": (lambda x: jax.lax.rev(x, (1,)), [(2, 3)]),
    "concatenate": (lambda x, y: jnp.concatenate([x, y], 1), [(2, 3), (2, 5)]),
    "stack": (lambda x, y: jnp.stack([x, y]), [(3, 5), (3, 5)]),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 2))), [(2, 3)]),
    "interior": (lambda x: jax.lax.pad(x, np.float32(0), ((0, 0, 0), (0, 0, 1))), [(2, 3)]),
    "tile": (lambda x: jnp.tile(x, (1, 2)), [(2, 3)]),
    "add": (lambda x, y: x + y, [(2, 3), (1, 3)]),
    "dot": (lambda x, y: jnp.einsum("bij,bjk->bik", x, y), [(2, 3, 5), (2, 5, 7)]),
    "square dot": (lambda x, y: x @ y, [(4, 4), (4, 4)]),
    "ragged dot": (lambda x, y: jax.lax.ragged_dot(x, y, jnp.array([2, 1])), [(3, 5), (2, 5, 7)]),
    "conv": (lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME"), [(2, 3, 5, 7), (3, 3, 3, 3)]),
    "pointwise": (lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME"), [(2, 3, 5, 7), (3, 3, 1, 1)]),
    "max pool": (lambda x: jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 2), (1, 1), "SAME"), [(3, 5)]),
    "gather": (lambda x: x[:, jnp.array([1, 0, 2])], [(2, 3, 5)]),
    "along": (lambda x: jnp.take_along_axis(x, jnp.array([[1], [0]]), 1), [(2, 3)]),
    "dynamic slice": (lambda x, i: jax.lax.dynamic_slice(x, (0, i), (2, 2)), [(2, 3), 1]),
    "dynamic update": (lambda x, u, i: jax.lax.dynamic_update_slice(x, u, (0, i)), [(2, 3), (2, 2), 1]),
    "scatter": (lambda x, u: x.at[:, jnp.array([1, 0])].set(u), [(2, 3), (2, 2)]),
    "scatter-add": (lambda x, u: x.at[jnp.array([1, 0, 1])].add(u), [(2, 3), (3, 3)]),
    "top_k": (lambda x: jax.lax.top_k(x, 3)[0], [(2, 3)]),
    "fft": (lambda x: jnp.abs(jnp.fft.fft(x)), [(2, 3)]),
    "cumsum": (lambda x: jnp.cumsum(x, 1), [(2, 3)]),
    "sort": (lambda x: jnp.sort(x, 1), [(2, 3)]),
    "cholesky": (lambda x: jnp.linalg.cholesky(x @ x.mT + jnp.eye(3)), [(2, 3, 3)]),
    "solve": (
        lambda a, x: jax.lax.linalg.triangular_solve(a, x, left_side=True, lower=True),
        [(2, 3, 3), (2, 3, 5)],
    ),
    "solve right": (
        lambda a, x: jax.lax.linalg.triangular_solve(a, x, left_side=False, lower=True),
        [(2, 3, 3), (2, 5, 3)],
    ),
    "svd": (lambda x: jnp.linalg.svd(x, full_matrices=False)[0], [(2, 3, 3)]),
    "qr": (lambda x: jnp.linalg.qr(x)[0], [(2, 3, 3)]),
    "eigh": (lambda x: jnp.linalg.eigh(x)[1], [(2, 3, 3)]),
}


def draw(shape):
    """Normal numbers; an integer stands for itself."""
    return jnp.asarray(RNG.standard_normal(shape), F) if isinstance(shape, tuple) else shape


def axes_of(function, arrays):
    """The axes of the arguments and of the result, by the axis rules alone."""
    inputs, equations, (output,) = flatten(jax.make_jaxpr(function)(*arrays))
    axes = {value: tuple(map(atom, value.shape)) for value in inputs}
    given = [axes[value] for value in inputs]
    for equation in equations:
        operands = [axes.get(x, tuple(map(atom, x.shape))) for x in equation.inputs]
        axes.update(zip(equation.outputs, AXIS_RULES[equation.primitive](equation, *operands), strict=True))
    return given, axes[output]


@pytest.mark.parametrize(("function", "shapes"), PRIMITIVES.values(), ids=PRIMITIVES)
def test_a_shared_axis_is_one_along_which_entries_stay_apart(function, shapes):
    """Where an output has the axis of an operand, entry h depends on no other entry of that operand than h."""
    arrays = [draw(shape) for shape in shapes]
    operands, results = axes_of(function, arrays)
    reference = np.asarray(function(*arrays))
    for number, axes in enumerate(operands):
        for dim, axis in enumerate(axes):
            shared = [target for target, result in enumerate(results) if find(result) is find(axis) and axis.size > 1]
            for target in shared:
                changed = arrays[number].at[(slice(None),) * dim + (slice(1, None),)].add(1.0)
                result = np.asarray(function(*arrays[:number], changed, *arrays[number + 1 :]))
                first = (slice(None),) * target + (0,)
                np.testing.assert_array_equal(result[first], reference[first])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dot", [(0, 0), (1, 1), (2, None)]),
        ("square dot", [(0, 0), (1, None)]),
        ("solve", [(0, 0), (1, None), (2, None)]),
        ("cholesky", [(0, 0), (1, None), (2, None)]),
        ("scatter", [(0, 0), (1, None)]),
        ("scatter-add", [(0, None), (1, 1)]),
        ("dynamic update", [(0, 0), (1, None)]),
        ("cumsum", [(0, 0), (1, None)]),
        ("fft", [(0, 0), (1, None)]),
        ("pointwise", [(0, 0), (1, None), (2, 2), (3, 3)]),
        ("conv", [(0, 0), (1, None), (2, None), (3, None)]),
    ],
)
def test_which_axes_of_the_first_operand_are_kept(name, expected):
    function, shapes = PRIMITIVES[name]
    arrays = [draw(shape) for shape in shapes]
    (first, *_), results = axes_of(function, arrays)
    kept = [
        (dim, next((i for i, r in enumerate(results) if find(r) is find(axis)), None)) for dim, axis in enumerate(first)
    ]
    assert kept == expected


def test_a_repeated_axis_is_free():
    """What a broadcast or a tile adds is an axis of its own, without constraint."""
    for name, dim in (("broadcast", 0), ("tile", 1)):
        function, shapes = PRIMITIVES[name]
        _, results = axes_of(function, [np.zeros(shape, F) for shape in shapes])
        assert not atoms(results[dim])[0].pinned
