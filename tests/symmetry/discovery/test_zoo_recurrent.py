"""The true groups of recurrent networks of Flax NNX, Flax Linen and Equinox: S_n and the signs of what is odd."""

from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax
from truth import GL, R, S, Z, exponents, factors, members, shapes

from symmetry import Slot
from symmetry.discovery import find_symmetries

SERIES = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6, 3)))


class NNX(nnx.Module):
    def __init__(self, cell, rngs):
        self.rnn, self.head = nnx.RNN(cell(3, 5, rngs=rngs)), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


# Number of slots of the units, and where they change their sign: inside a hyperbolic tangent, and in what reads them.
READ = {("head.kernel", 0)}
FUSED = {("dense_i.kernel", 1), ("dense_h.kernel", 0), ("dense_h.kernel", 1)}
GATES = {("ig.kernel", 1), ("hg.kernel", 1), ("hg.bias", 0), *((f"h{gate}.kernel", 0) for gate in "ifgo")}
CELLS = [
    (nnx.SimpleCell, 5, FUSED | {("dense_i.bias", 0)}),
    (nnx.OptimizedLSTMCell, 14, FUSED | {("dense_h.bias", 0)}),
    pytest.param(nnx.LSTMCell, 17, GATES, marks=pytest.mark.slow),
    pytest.param(nnx.GRUCell, 11, FUSED | {("dense_i.bias", 0)}, marks=pytest.mark.slow),
]


def split(module):
    """The parameters, and what else the network needs: an argument, for closing over it leaks tracers."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return lambda params, inputs: nnx.merge(graph, params, inputs[0])(inputs[1]), params, (rest, SERIES)


@pytest.mark.parametrize(("cell", "num_slots", "signs"), CELLS)
def test_nnx_cells(cell, num_slots, signs):
    found = find_symmetries(*split(NNX(cell, nnx.Rngs(0)))).likelihood
    assert factors(found) == Counter([S(5), Z(5)])
    assert len(next(factor for factor in found.factors if factor.kind == "permutation").slots) == num_slots
    assert members(found, "sign", 5) == signs | READ


class Equinox(eqx.Module):
    cell: eqx.Module
    head: eqx.nn.Linear
    is_pair: bool = eqx.field(static=True)

    def __call__(self, series):
        zero = jnp.zeros(5, series.dtype)
        start = (zero, zero) if self.is_pair else zero
        last, _ = lax.scan(lambda h, x: (self.cell(x, h), None), start, series)
        return self.head(last[0] if self.is_pair else last)


@pytest.mark.parametrize(("cell", "num_gates"), [(eqx.nn.LSTMCell, 4), (eqx.nn.GRUCell, 3)])
def test_fused_equinox_cells(cell, num_gates):
    """All gates in one kernel: the units have a slot in each, the signs one in that of the hyperbolic tangent."""
    keys = jax.random.split(jax.random.key(0))
    module = Equinox(cell(3, 5, key=keys[0]), eqx.nn.Linear(5, 2, key=keys[1]), num_gates == 4)
    found = find_symmetries(lambda module, x: jax.vmap(module)(x), module, SERIES).likelihood
    assert factors(found) == Counter([S(5), Z(5)])
    units, signs = ({slot for slot in factor.slots if slot.site == "cell.weight_hh"} for factor in found.factors)
    gates = {Slot("cell.weight_hh", 0, 5, offset=5 * gate) for gate in range(num_gates)}
    assert units == gates | {Slot("cell.weight_hh", 1, 5)}
    assert signs == {Slot("cell.weight_hh", 0, 5, offset=10), Slot("cell.weight_hh", 1, 5)}


def test_two_layers_and_two_directions():
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            cells = linen.RNN(linen.SimpleCell(4), name="forth"), linen.RNN(linen.SimpleCell(5), name="back")
            x = linen.Bidirectional(*cells)(x)
            return linen.Dense(2, name="head")(linen.RNN(linen.SimpleCell(6), name="last")(x)[:, -1])

    network = Network()
    found = find_symmetries(network.apply, jax.eval_shape(network.init, jax.random.key(0), SERIES), SERIES).likelihood
    assert factors(found) == Counter([kind(size) for size in (4, 5, 6) for kind in (S, Z)])


def linear_system(read):
    """A linear state space model, its outputs made of all its states."""

    def apply(p, x):
        def step(state, x):
            state = p["a"] @ state + p["b"] @ x
            return state, read(p["c"] @ state)

        return jax.vmap(lambda series: lax.scan(step, jnp.zeros(4, x.dtype), series)[1])(x)

    return apply


@pytest.mark.parametrize("read", [lambda y: y, jnp.tanh])
def test_a_linear_state_space_model_has_any_basis(read):
    """GL(4): A becomes M A M^-1, known in control as the equivalence of realisations."""
    found = find_symmetries(linear_system(read), shapes(a=(4, 4), b=(4, 3), c=(2, 4)), SERIES).likelihood
    assert factors(found) == Counter([GL(4)])
    (slots,) = (factor.slots for factor in found.factors)
    assert {(slot.site, slot.axis, slot.exponent) for slot in slots} == {
        ("a", 0, 1), ("a", 1, -1), ("b", 0, 1), ("c", 1, -1)
    }  # fmt: skip


def test_a_diagonal_state_space_model():
    """The eigenvalues of each unit stay, its scale is free."""

    def apply(p, x):
        def step(state, x):
            return p["a"] * state + x @ p["b"], None

        return lax.scan(step, jnp.zeros((x.shape[0], 4), x.dtype), jnp.swapaxes(x, 0, 1))[0] @ p["c"]

    found = find_symmetries(apply, shapes(a=(4,), b=(3, 4), c=(4, 2)), SERIES).likelihood
    assert factors(found) == Counter([S(4), Z(4), R(4)])
    assert exponents(found, "scale", 4) == [{("b", 1): 1, ("c", 0): -1}]
    assert ("a", 0) in members(found, "permutation", 4)
