"""Known groups of recurrent networks, loops and branches."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import linen, nnx
from jax import lax
from numpyro import sample
from numpyro.contrib.control_flow import scan
from subsets import first

from bnn_models import Posterior
from symmetry.discovery import find_symmetries
from symmetry.discovery.rules import AXIS_RULES, CHARACTER_RULES
from symmetry.discovery.rules.control import ORDER

RNG = np.random.default_rng(0)
SERIES = jnp.asarray(RNG.standard_normal((4, 6, 3)))
X, Y = SERIES[:, 0], RNG.standard_normal(8)
S, Z, R = "permutation", "sign", "scale"


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def groups(group):
    """Kinds and sizes by axis class, all of them certified."""
    found = {}
    for factor in group.factors:
        assert factor.certificate.error <= 1e-10
        assert factor.certificate.control > 1e-6
        found.setdefault(factor.axis, set()).add((factor.kind, factor.size))
    return found


def members(group, kind):
    """Where the one factor of a kind acts; sites by the last two parts of their names."""
    (factor,) = (factor for factor in group.factors if factor.kind == kind)
    return {(".".join(slot.site.split(".")[-2:]), slot.axis) for slot in factor.slots}


def reason(group, site, axis):
    return next(pin.reason for pin in group.pinned if (pin.site, pin.axis) == (site, axis))


RECURRENT = shapes(a=(3, 5), b=(5,), u=(5, 5), v=(5, 2))


def recurrent(read, activation=jnp.tanh):
    """A recurrent layer from zeros, its head on what ``read`` makes of the last and of all states."""

    def apply(p, x):
        def step(h, x):
            h = activation(x @ p["a"] + h @ p["u"] + p["b"])
            return h, h

        start = jnp.zeros((x.shape[0], 5), x.dtype)
        return read(*lax.scan(step, start, jnp.swapaxes(x, 0, 1))) @ p["v"]

    return apply


@pytest.mark.parametrize("read", [lambda last, states: last, lambda last, states: states])
@pytest.mark.parametrize(("activation", "kinds"), [(jnp.tanh, {S, Z}), (jax.nn.relu, {S, R}), (jax.nn.gelu, {S})])
def test_a_recurrent_network(read, activation, kinds):
    found = find_symmetries(recurrent(read, activation), RECURRENT, SERIES).likelihood
    assert groups(found) == {"a_dim_1": {(kind, 5) for kind in kinds}}
    for kind in kinds & {S, Z}:
        assert members(found, kind) == {("a", 1), ("b", 0), ("u", 0), ("u", 1), ("v", 0)}
    assert found.axes["u"] == ("a_dim_1", "a_dim_1")


def test_scales_of_a_recurrent_network_cancel_in_the_recurrent_weights():
    found = find_symmetries(recurrent(lambda last, _: last, jax.nn.relu), RECURRENT, SERIES).likelihood
    exponents = {(slot.site, slot.axis): slot.exponent for slot in found.factor("a_dim_1:scale").slots}
    assert exponents == {("a", 1): 1, ("b", 0): 1, ("u", 0): -1, ("u", 1): 1, ("v", 0): -1}


@pytest.mark.parametrize(
    ("start", "kinds"), [(lambda p: p["h"], {S, Z}), (lambda p: jnp.ones(5), {S}), (lambda p: jnp.arange(5.0), set())]
)
def test_the_start_of_a_loop(start, kinds):
    def apply(p, x):
        def step(h, x):
            return jnp.tanh(x * p["w"] + p["u"] @ h), None

        return lax.scan(step, start(p), x)[0] @ p["v"]

    found = find_symmetries(apply, shapes(h=(5,), w=(5,), u=(5, 5), v=(5,)), Y).likelihood
    assert {kind for found in groups(found).values() for kind, _ in found} == kinds
    if S in kinds:
        used = {("h", 0)} if Z in kinds else set()
        assert members(found, S) == {("w", 0), ("u", 0), ("u", 1), ("v", 0)} | used


@pytest.mark.parametrize("is_read", [False, True])
def test_what_is_carried_along_counts_only_if_it_is_read(is_read):
    def apply(p, x):
        def step(carried, x):
            h, first = carried
            h = jnp.tanh(x @ p["a"] + h @ p["u"] + p["b"])
            return (h, jnp.maximum(first, h[:, :1])), h[:, 1]

        start = jnp.zeros((x.shape[0], 5), x.dtype), jnp.zeros((x.shape[0], 1), x.dtype)
        (h, first), _ = lax.scan(step, start, jnp.swapaxes(x, 0, 1))
        return h @ p["v"] + first if is_read else h @ p["v"]

    found = find_symmetries(apply, RECURRENT, SERIES).likelihood
    assert [factor.size for factor in found.factors if factor.kind == S] == [4 if is_read else 5]


def module(cell):
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(2, name="head")(linen.RNN(cell, name="rnn")(x)[:, -1])

    network = Network()
    return network.apply, jax.eval_shape(network.init, jax.random.key(0), SERIES)


LSTM = {("ig.kernel", 1), ("hg.kernel", 1), ("hg.bias", 0), *((f"h{gate}.kernel", 0) for gate in "ifgo")}
GRU = {("in.kernel", 1), ("in.bias", 0), ("hn.kernel", 1), ("hn.bias", 0), *((f"h{gate}.kernel", 0) for gate in "rzn")}
CELLS = {
    "simple": (linen.SimpleCell, {("i.kernel", 1), ("i.bias", 0), ("h.kernel", 0), ("h.kernel", 1)}, 5),
    "lstm": (linen.LSTMCell, LSTM, 17),
    "fused_lstm": (linen.OptimizedLSTMCell, LSTM, 17),
    "gru": (linen.GRUCell, GRU, 14),
}


@pytest.mark.parametrize("cell", CELLS)
def test_linen_cells(cell):
    constructor, signs, num_slots = CELLS[cell]
    found = find_symmetries(*module(constructor(5)), SERIES).likelihood
    (kinds,) = groups(found).values()
    assert kinds == {(S, 5), (Z, 5)}
    assert members(found, Z) == signs | {("head.kernel", 0)}
    assert len(members(found, S)) == num_slots


def test_nnx_cell():
    class Network(nnx.Module):
        def __init__(self, rngs):
            cell = nnx.SimpleCell(3, 5, dtype=None, rngs=rngs)
            self.rnn, self.head = nnx.RNN(cell, rngs=False), nnx.Linear(5, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.rnn(x, initial_carry=jnp.zeros((x.shape[0], 5), x.dtype))[:, -1])

    graph, params = nnx.split(Network(nnx.Rngs(0)))
    found = find_symmetries(lambda params, x: nnx.merge(graph, params)(x), params, SERIES).likelihood
    (kinds,) = groups(found).values()
    assert kinds == {(S, 5), (Z, 5)}
    assert len(members(found, Z)) == 5


def prints(h):
    return lax.scan(lambda h, _: (jnp.tanh(h), jax.debug.callback(lambda h: None, h)), h, length=2)[0]


# What is done to the hidden state h, given the inputs x.
STATES = {
    "cond": (lambda h, x: lax.cond(x.sum() > 0, jnp.tanh, jnp.sin, h), {S, Z}),
    "cond_on_the_state": (lambda h, x: lax.cond(h.sum() > 0, jnp.tanh, jnp.sin, h), {S}),
    "cond_with_an_even_branch": (lambda h, x: lax.cond(x.sum() > 0, jnp.tanh, jnp.cos, h), {S}),
    "cond_with_zeros": (lambda h, x: lax.cond(x.sum() > 9, jnp.zeros_like, jax.nn.relu, h), {S, R}),
    "cond_with_an_order": (lambda h, x: lax.cond(x.sum() > 0, jnp.tanh, lambda h: h * jnp.arange(4.0), h), {Z}),
    "switch": (lambda h, x: lax.switch(x.astype(int).max(), [jnp.tanh, jnp.sin, jax.nn.gelu], h), {S}),
    "while": (lambda h, x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1])), (0, h))[1], {S, Z}),
    "while_large": (lambda h, x: lax.while_loop(lambda h: (h**2).sum() > 0.1, lambda h: h / 2, h), {"orthogonal"}),
    "while_positive": (lambda h, x: lax.while_loop(lambda h: h.sum() > 0.1, lambda h: h / 2, h), {S}),
    "fori": (lambda h, x: lax.fori_loop(0, 3, lambda i, h: h + jax.nn.relu(h), h), {S, R}),
    "fori_with_index": (lambda h, x: lax.fori_loop(0, 3, lambda i, h: h * (i + 1), h), {"linear"}),
    "unit_of_an_index": (lambda h, x: lax.fori_loop(0, 3, lambda i, g: g + g[:, i, None], h), set()),
    "nested": (
        lambda h, x: lax.fori_loop(0, 2, lambda i, h: lax.fori_loop(0, 2, lambda j, g: jnp.tanh(g + h), h), h),
        {S, Z},
    ),
    "map": (lambda h, x: lax.map(jnp.tanh, h), {S, Z}),
    "elements": (lambda h, x: lax.scan(lambda c, g: (c + g, c), jnp.zeros(h.shape[0], h.dtype), h.T)[1].T, set()),
    "rotation": (lambda h, x: lax.fori_loop(0, 3, lambda i, h: jnp.roll(jnp.tanh(h), 1, axis=1), h), set()),
    "effects": (lambda h, x: prints(h), set()),
}


@pytest.mark.parametrize("name", STATES)
def test_loops_and_branches(name):
    operation, kinds = STATES[name]
    found = find_symmetries(lambda p, x: operation(x @ p["a"], x) @ p["b"], shapes(a=(3, 4), b=(4, 2)), X).likelihood
    diagonal = {kind for axis in groups(found).values() for kind, size in axis if size == 4}
    assert diagonal == kinds
    if name == "elements":
        assert ORDER in reason(found, "a", 1)
    if name == "effects":
        assert "unsupported primitive scan" in reason(found, "a", 1)


def test_layers_in_a_scan_have_units_of_their_own():
    """The units of each layer are its own, (S_5)^3 and R_+^15; the stream between the layers is used linearly."""

    def apply(p, x):
        def layer(h, layer):
            return h + jax.nn.relu(h @ layer["m"]) @ layer["n"], None

        return lax.scan(layer, x @ p["a"], {"m": p["m"], "n": p["n"]})[0] @ p["b"]

    found = find_symmetries(apply, shapes(a=(3, 4), m=(3, 4, 5), n=(3, 5, 4), b=(4, 2)), X).likelihood
    assert groups(found) == {"a_dim_1": {("linear", 4)}, "m_dim_2": {(S, 5), (R, 5)}}
    assert {(factor.fibre, factor.shape) for factor in found.factors[1:]} == {(("m_dim_0",), (3, 5))}
    assert {(slot.site, slot.axis) for slot in found.factor("m_dim_2:permutation").slots} == {("m", 2), ("n", 1)}
    assert reason(found, "m", 0) == ORDER


def hidden_markov(y):
    start = sample("start", dist.Dirichlet(jnp.ones(3)))
    transition = sample("transition", dist.Dirichlet(jnp.ones(3)).expand([3]).to_event(1))
    mean = sample("mean", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
    emission = dist.Normal(mean, 1.0).log_prob(y[:, None])

    def step(forward, emission):
        return jax.nn.logsumexp(forward[:, None] + jnp.log(transition), axis=0) + emission, None

    forward, _ = lax.scan(step, jnp.log(start) + emission[0], emission[1:])
    numpyro.factor("y", jax.nn.logsumexp(forward))


def state_space(y):
    dynamics = sample("dynamics", dist.Normal(0.0, 1.0).expand([3, 3]).to_event(2))
    loading = sample("loading", dist.Normal(0.0, 1.0).expand([3]).to_event(1))

    def step(state, y):
        state = sample("state", dist.Normal(dynamics @ state, 1.0).to_event(1))
        return state, sample("y", dist.Normal(loading @ state, 0.5), obs=y)

    scan(step, jnp.zeros(3, y.dtype), y)


def test_label_switching_of_a_hidden_markov_model():
    found = find_symmetries(Posterior(hidden_markov, Y))
    assert groups(found.posterior) == groups(found.likelihood) == {"start_dim_0": {(S, 3)}}
    assert members(found.posterior, S) == {("start", 0), ("transition", 0), ("transition", 1), ("mean", 0)}


def test_a_state_space_model():
    found = find_symmetries(Posterior(state_space, Y)).posterior
    assert groups(found) == {"dynamics_dim_0": {("orthogonal", 3)}}
    assert members(found, "orthogonal") == {("dynamics", 0), ("dynamics", 1), ("loading", 0), ("state", 1)}


CELL_OPERATIONS = {
    "dense": lambda h, p: h @ p["u"],
    "tanh": lambda h, p: jnp.tanh(h),
    "relu": lambda h, p: jax.nn.relu(h),
    "gain": lambda h, p: h * p["g"],
    "shift": lambda h, p: jnp.concatenate([h[:, 1:], h[:, :1]], axis=1),
    "indexed": lambda h, p: lax.fori_loop(0, 2, lambda i, c: c + p["u"][i] * h, h),
    "fold": lambda h, p: (h.reshape(-1, 2, 2) * p["g"][:2]).reshape(h.shape),
    "while": lambda h, p: lax.while_loop(lambda c: (c**2).sum() > 4, lambda c: c * 0.5, h),
    "push": lambda h, p: jnp.concatenate([h[:, 1:], h.sum(1, keepdims=True)], axis=1),
    "inner": lambda h, p: lax.fori_loop(0, 2, lambda i, c: jnp.tanh(c @ p["u"] + h), jnp.zeros_like(h)),
    "branch": lambda h, p: lax.cond(h.sum() > 0, jnp.tanh, lambda h: h * p["g"], h),
}


@pytest.mark.parametrize("seed", first(6, range(100)))
def test_every_reported_factor_of_a_random_cell_is_certified(seed):
    # A factor that fails its certificate is dropped with a warning, which is an error here.
    rng = np.random.default_rng(seed)
    inside, outside = (rng.choice(list(CELL_OPERATIONS), size=rng.integers(1, 4)) for _ in range(2))

    def chain(names, h, p):
        for name in names:
            h = CELL_OPERATIONS[name](h, p)
        return h

    def apply(p, x):
        def step(carried, _):
            h, total = carried
            h = chain(inside, h, p) + x @ p["a"]
            return (h, total + jnp.tanh(h)), h

        start = chain(outside, x @ p["a"], p)
        (h, total), states = lax.scan(step, (start, jnp.zeros_like(start)), None, length=3)
        return jnp.tanh(h) @ p["b"], (total if seed % 2 else states.sum(0)) @ p["c"]

    sites = shapes(a=(3, 4), u=(4, 4), g=(4,), b=(4, 2), c=(4, 1))
    groups(find_symmetries(apply, sites, X).likelihood)


@pytest.mark.parametrize(("rules", "kind"), [(AXIS_RULES, "permutation"), (CHARACTER_RULES, "sign")])
def test_a_loop_whose_ends_are_not_tied_is_caught(monkeypatch, rules, kind):
    monkeypatch.setitem(rules, "loop_step", lambda equation, *operands: [operands[-2]])
    with pytest.warns(RuntimeWarning, match="was dropped: its float64 certificate failed"):
        found = find_symmetries(recurrent(lambda last, _: last), RECURRENT, SERIES).likelihood
    assert kind not in {factor.kind for factor in found.factors}
