"""Slices moved in front of reshapes: fused projections fall apart into what they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subsets import first

from symmetry.discovery import find_symmetries
from symmetry.discovery.numeric import evaluate
from symmetry.discovery.program import Program, flatten
from symmetry.discovery.rewrite import MAX_STEPS, rewrite

BATCH, LENGTH, HEADS, DIM = 2, 5, 2, 3
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((BATCH, LENGTH, 6)), jnp.float32)


def ones(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def attend(q, k, v, out):
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(DIM), -1)
    return jnp.einsum("bhts,bshd->bthd", weights, v).reshape(BATCH, LENGTH, HEADS * DIM) @ out


def found(network, params, x=X):
    group = find_symmetries(network, params, x).likelihood
    assert all(factor.certificate.error <= 1e-10 for factor in group.factors)
    return group


def kinds(group):
    return sorted((factor.kind, factor.size, factor.fibre_shape) for factor in group.factors)


def places(factor, site):
    return sorted((slot.offset, slot.stride, slot.outer) for slot in factor.slots if slot.site == site)


def leading(h, shape=(3, HEADS, DIM)):
    return h.reshape(BATCH, LENGTH, *shape)


def by_transpose(h):
    q, k, v = leading(h).transpose(2, 0, 3, 1, 4)
    return [part.swapaxes(1, 2) for part in (q, k, v)]


def by_partial_slices(h):
    q, kv = leading(h)[:, :, 0], leading(h)[:, :, 1:]
    return q, kv[:, :, 0], kv[:, :, -1]


def of_merged_heads(h):
    h = leading(h, (3 * HEADS, DIM))
    return h[:, :, :HEADS], h[:, :, HEADS:-HEADS], h[:, :, -HEADS:]


def merged_again(h):
    h = jnp.tanh(leading(h)).reshape(BATCH, LENGTH, 3 * HEADS * DIM)
    return [part.reshape(BATCH, LENGTH, HEADS, DIM) for part in jnp.split(h, 3, -1)]


FUSED = {
    "index": lambda h: [leading(h)[:, :, k] for k in range(3)],
    "moveaxis": lambda h: jnp.moveaxis(leading(h), 2, 0),
    "unstack": lambda h: jnp.unstack(leading(h), axis=2),
    "split": lambda h: [part.squeeze(2) for part in jnp.split(leading(h), 3, 2)],
    "split first": lambda h: [part.reshape(BATCH, LENGTH, HEADS, DIM) for part in jnp.split(h, 3, -1)],
    "gather": lambda h: [jnp.take(leading(h), k, axis=2) for k in range(3)],
    "dynamic slice": lambda h: [jax.lax.dynamic_index_in_dim(leading(h), k, 2, keepdims=False) for k in range(3)],
    "transpose": by_transpose,
    "partial": by_partial_slices,
    "merged heads": of_merged_heads,
}


@pytest.mark.parametrize("layout", first(3, FUSED))
def test_a_fused_projection_has_the_groups_of_three(layout):
    """S_2 of the heads, and in each head GL(3) between q and k, and between v and the output."""

    def network(params, x):
        return attend(*FUSED[layout](x @ params["w"] + params["b"]), params["out"])

    group = found(network, ones(w=(6, 18), b=(18,), out=(6, 6)))
    assert kinds(group) == [("linear", 3, (2,)), ("linear", 3, (2,)), ("permutation", 2, ())]
    heads, keys, values = (
        group.factor(name) for name in ("b_dim_0:permutation", "b_dim_0_2:linear", "b_dim_0_3:linear")
    )
    assert places(heads, "w") == [(0, 3, 1), (6, 3, 1), (12, 3, 1)]
    assert places(keys, "w") == [(0, 1, 2), (6, 1, 2)]
    assert places(values, "w") == [(12, 1, 2)]
    assert places(values, "out") == [(0, 1, 2)]


def test_elementwise_functions_between_reshape_and_slice():
    """A tanh leaves permutations and signs of q, k and v; those of q and k go together."""

    def network(params, x):
        return attend(*merged_again(x @ params["w"]), params["out"])

    group = found(network, ones(w=(6, 18), out=(6, 6)))
    signs, units = ("sign", 3, (2,)), ("permutation", 3, (2,))
    assert kinds(group) == [("permutation", 2, ()), units, units, signs, signs]


@pytest.mark.parametrize(
    "layout",
    [
        lambda h: [leading(h, (HEADS, 3, DIM))[:, :, :, k] for k in range(3)],
        lambda h: jnp.split(leading(h, (HEADS, 3 * DIM)), 3, -1),
    ],
)
def test_projections_fused_within_each_head(layout):
    """The layout of GPT-NeoX: the units of v in every head are apart from those that q and k share."""

    def network(params, x):
        return attend(*layout(x @ params["w"]), params["out"])

    group = found(network, ones(w=(6, 18), out=(6, 6)))
    assert len({factor.axis for factor in group.factors if factor.size == HEADS}) == 1
    units = {factor.axis: factor for factor in group.factors if factor.size == DIM}
    assert len(units) == 2
    assert sorted("out" in {slot.site for slot in factor.slots} for factor in units.values()) == [False, True]


def test_weights_that_are_reshaped_before_they_are_used():
    def network(params, x):
        w = params["w"].reshape(6, 3, HEADS, DIM)
        q, k, v = jnp.einsum("btd,dkhe->kbthe", x, w)
        return attend(q, k, v, params["out"])

    group = found(network, ones(w=(6, 18), out=(6, 6)))
    assert kinds(group) == [("linear", 3, (2,)), ("linear", 3, (2,)), ("permutation", 2, ())]


def test_weights_of_a_scan_over_layers():
    def network(params, x):
        def layer(x, weights):
            q, k, v = jnp.moveaxis(leading(x @ weights["w"]), 2, 0)
            return x + attend(q, k, v, weights["out"]), None

        return jax.lax.scan(layer, x @ params["first"], {"w": params["w"], "out": params["out"]})[0] @ params["last"]

    group = found(network, ones(first=(6, 6), w=(4, 6, 18), out=(4, 6, 6), last=(6, 2)))
    units = [factor for factor in group.factors if factor.size == DIM]
    assert [(factor.kind, sorted(factor.fibre_shape)) for factor in units] == [("linear", [2, 4])] * 2


def test_heads_that_are_told_apart():
    """One softness for each head: the units of each head are a class of their own."""

    def network(params, x):
        q, k = (leading(x @ params[name], (HEADS, DIM)) for name in ("q", "k"))
        logits = [jnp.einsum("btd,bsd->bts", q[:, :, head], k[:, :, head]) for head in range(HEADS)]
        return jnp.tanh(logits[0]) + jnp.exp(logits[1])

    assert kinds(found(network, ones(q=(6, 6), k=(6, 6)))) == [("linear", 3, ())] * 2


def test_a_slice_of_what_is_also_used_as_a_whole():
    """The three parts are normalised together: their units can only be permuted together."""

    def network(params, x):
        h = (x @ params["w"]).reshape(BATCH, LENGTH, 3, 4)
        h = jnp.tanh(h) * jax.nn.softmax(h, 2)
        return (h[:, :, 0] * h[:, :, 1] + h[:, :, 2]) @ params["out"]

    assert kinds(found(network, ones(w=(6, 12), out=(4, 2)))) == [("permutation", 4, ())]


def test_gates_that_alternate():
    """``h[2 j]`` and ``h[2 j + 1]`` belong together: pairs are exchanged."""

    def network(params, x):
        h = x @ params["w"]
        return (jax.nn.silu(h[..., ::2]) * h[..., 1::2]) @ params["out"]

    group = found(network, ones(w=(6, 8), out=(4, 2)))
    assert kinds(group) == [("permutation", 4, ())]
    assert places(group.factors[0], "w") == [(0, 2, 1)]


def run(program, values):
    """The outputs of a program whose primitives NumPy knows."""
    arrays = dict(zip((value for _, value in program.data), values, strict=True))

    def read(value):
        return arrays[value] if value.constant is None else value.constant

    for equation in program.equations:
        (output,) = equation.outputs
        result = evaluate(equation.primitive, [read(value) for value in equation.inputs], equation.params, output.shape)
        assert result is not None
        arrays[output] = result
    return [read(value) for value in program.outputs]


def rewritten(function, *arguments):
    inputs, equations, outputs = flatten(jax.make_jaxpr(function)(*arguments))
    data = tuple((f"argument {number}", value) for number, value in enumerate(inputs))
    return rewrite(Program({}, data, (), outputs).replace_equations(equations))


A = RNG.standard_normal((2, 24)).astype(np.float32)
W = RNG.standard_normal((24, 24)).astype(np.float32)
SLICES = {
    "first of three": lambda a, w: (a @ w).reshape(2, 3, 2, 4)[:, 1:],
    "middle of three": lambda a, w: (a @ w).reshape(2, 3, 2, 4)[:, :, 1],
    "both": lambda a, w: (a @ w).reshape(2, 3, 2, 4)[:, 2, :1],
    "of a slice": lambda a, w: jnp.tanh((a @ w).reshape(2, 6, 4))[:, 1:5][:, -2:],
    "of the weights": lambda a, w: jnp.einsum("nd,dkc->kcn", a, w.reshape(24, 6, 4))[2:4],
    "of a batch": lambda a, w: jnp.einsum("nkc,kcd->knd", a.reshape(2, 6, 4), w.reshape(6, 4, 24))[1:3],
    "of blocks merged": lambda a, w: jnp.sin(a.reshape(2, 3, 8)).reshape(2, 24)[:, 8:16],
    "across blocks merged": lambda a, w: jnp.sin(a.reshape(2, 3, 8)).reshape(2, 24)[:, 6:16],
    "of a sum": lambda a, w: jnp.sum(a.reshape(2, 3, 2, 4) ** 2, -1)[:, 1],
    "with a bias": lambda a, w: (a + w[0]).reshape(2, 3, 8)[:, 0] * (a + w[0]).reshape(1, 2, 3, 8)[0, :, 2],
    "misaligned": lambda a, w: w[:12].reshape(12, 4, 6).transpose(1, 0, 2).reshape(8, 36)[2:5],
    "of all": lambda a, w: jnp.stack(jnp.split((a @ w).reshape(2, 3, 8), 3, axis=1)),
    "set": lambda a, w: a.reshape(2, 3, 8).at[:, 1].set(w[:2, :8]),
    "set a block": lambda a, w: a.reshape(2, 3, 8).at[:, 1:, 2].set(0.0),
    "add": lambda a, w: a.reshape(2, 3, 8).at[:, 2].add(w[0, :8]),
    "multiply": lambda a, w: a.at[1, 3].multiply(w[1, 2]),
    "largest": lambda a, w: a.at[:, -1].max(w[0, 1]),
    "update": lambda a, w: jax.lax.dynamic_update_slice(w, a, (23, 0)),
    "outside": lambda a, w: jax.lax.dynamic_slice(w, (20, 3), (6, 5)),
    "of a constant": lambda a, w: (a.reshape(2, 3, 8) * np.arange(24.0, dtype=np.float32).reshape(3, 8))[:, 1],
}


@pytest.mark.parametrize("function", SLICES.values(), ids=SLICES)
def test_a_rewritten_program_computes_the_same(function):
    (result,) = run(rewritten(function, A, W), [A, W])
    np.testing.assert_allclose(result, function(jnp.asarray(A), jnp.asarray(W)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("steps", "moved"), [(3, True), (MAX_STEPS + 1, False)])
def test_a_slice_is_moved_so_far_and_no_further(steps, moved):
    def function(a):
        a = a.reshape(2, 3, 8)
        for _ in range(steps):
            a = jnp.sin(a)
        return a[:, 0]

    program = rewritten(function, A)
    assert (program.equations[0].primitive == "slice") == moved
    np.testing.assert_allclose(run(program, [A])[0], function(A), rtol=1e-4)


def test_slices_without_a_reshape_stay():
    program = rewritten(lambda a: jnp.sin(a)[:, :4] + jnp.sin(a)[:, 4:8], A)
    assert [equation.primitive for equation in program.equations].count("sin") == 2
    assert program.equations[0].primitive == "sin"


def random_chain(seed):
    """Reshapes, transpositions, slices, updates and functions of a dense layer, one after the other."""

    def function(params, x):
        rng = np.random.default_rng(seed)
        h = jnp.asarray(x) @ params["w"]
        for _ in range(8):
            dim = int(rng.integers(1, h.ndim))
            size, part = h.shape[dim], int(rng.integers(1, h.shape[dim] + 1))
            parts = [k for k in range(2, size) if size % k == 0]
            move = rng.choice(["fold", "turn", "merge", "slice", "first", "set", "halves", "tanh", "square"])
            if move == "fold" and parts:
                block = int(rng.choice(parts))
                h = h.reshape(*h.shape[:dim], block, size // block, *h.shape[dim + 1 :])
            elif move == "turn":
                h = h.transpose(0, *(1 + rng.permutation(h.ndim - 1)))
            elif move == "merge":
                h = h.reshape(*h.shape[:dim], -1, *h.shape[dim + 2 :])
            elif move == "slice":
                h = jax.lax.slice_in_dim(h, size - part, size, axis=dim)
            elif move == "first" and h.ndim > 2:
                h = jnp.take(h, part - 1, axis=dim)
            elif move == "set":
                h = h.at[..., -1].set(0.5)
            elif move == "halves" and size % 2 == 0:
                left, right = jnp.split(h, 2, dim)
                h = left * jnp.cos(right)
            else:
                h = jnp.tanh(h) if move == "tanh" else h + h**2
        return jnp.tanh(h.reshape(x.shape[0], -1) @ params["v"]) if "v" in params else h.reshape(x.shape[0], -1)

    return function


@pytest.mark.parametrize("seed", first(5, range(12)))
def test_random_chains(seed):
    """They compute the same after rewriting, and what is found of them is certified."""
    function = random_chain(seed)
    w = W[:6]
    width = jax.eval_shape(function, {"w": w}, A[:, :6]).shape[1]
    v = RNG.standard_normal((width, 2)).astype(np.float32)
    (result,) = run(rewritten(lambda w, v, x: function({"w": w, "v": v}, x), w, v, A[:, :6]), [w, v, A[:, :6]])
    np.testing.assert_allclose(result, function({"w": w, "v": v}, A[:, :6]), rtol=1e-3, atol=1e-4)
    found(function, ones(w=w.shape, v=v.shape), A[:, :6])
