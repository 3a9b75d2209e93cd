"""Known matrices whose rows and columns may be permuted alike, such as the identity; and entries that nothing reads."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import factor, sample
from truth import coloured, posterior_group

from symmetry.discovery import find_symmetries
from symmetry.discovery.exchange import joint_labels

RNG = np.random.default_rng(6)
X = jnp.asarray(RNG.standard_normal((7, 2)), jnp.float32)
Y = jnp.asarray(RNG.standard_normal(7), jnp.float32)
S = "permutation"


def sticky(y):
    """A hidden Markov model whose four states like to stay."""
    concentration = jnp.ones((4, 4)) + 5.0 * jnp.eye(4)
    transitions = sample("transitions", dist.Dirichlet(concentration).to_event(1))
    start = sample("start", dist.Dirichlet(jnp.ones(4)))
    means = sample("means", dist.Normal(0.0, 3.0).expand([4]).to_event(1))
    logits = dist.Normal(means, 1.0).log_prob(y[:, None])

    def step(alpha, logit):
        return logit + jax.nn.logsumexp(alpha[:, None] + jnp.log(transitions), 0), None

    alpha, _ = jax.lax.scan(step, jnp.log(start) + logits[0], logits[1:])
    factor("y", jax.nn.logsumexp(alpha))


def test_states_that_like_to_stay():
    """Rows and columns of the transition matrix are permuted alike: the identity in its prior stays as it is."""
    assert coloured(posterior_group(sticky, Y)) == {(S, 4, None)}


def test_an_orthogonality_penalty():
    def apply(params, x):
        gram = params["w"].T @ params["w"] - jnp.eye(4)
        return jnp.tanh(x @ params["w"]) @ params["v"] + jnp.sum(gram**2)

    params = {"w": jax.ShapeDtypeStruct((2, 4), jnp.float32), "v": jax.ShapeDtypeStruct((4,), jnp.float32)}
    assert (S, 4, None) in coloured(find_symmetries(apply, params, X).likelihood)


def test_rows_that_are_alike_without_their_columns():
    """Rows and columns of a block mask are exchanged independently of each other."""
    mask = np.kron(np.eye(2), np.ones((2, 2)))

    def apply(params, x):
        return jnp.tanh(x @ params["w"]) @ (params["v"] * mask) @ jnp.tanh(params["u"]) + x[:, :1]

    shapes = {"w": (2, 4), "v": (4, 4), "u": (4, 3)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    group = find_symmetries(apply, params, X).likelihood
    assert [one for one in coloured(group) if one[0] == S] == [(S, 4, (0, 0, 1, 1))]
    assert len({one.axis for one in group.factors if one.kind == S}) == 2


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.eye(3), ((0, 1), (0, 0, 0))),
        (np.eye(3, dtype=bool), ((0, 1), (0, 0, 0))),
        (np.stack([np.eye(3), 1.0 - np.eye(3)]), ((1, 2), (0, 0, 0))),
        (np.diag([1.0, 2.0, 1.0]), ((0, 1), (0, 1, 0))),
        (np.tri(3), None),
        (np.ones((3, 3)), None),
        (np.eye(3)[[1, 2, 0]], None),
        (np.eye(3)[:, :2], None),
        (np.kron(np.eye(2), np.ones((2, 2))), None),
    ],
)
def test_constants_that_are_the_same_when_rows_and_columns_move_alike(array, expected):
    assert joint_labels(array) == expected


def test_rows_that_nothing_reads_are_no_class_of_their_own():
    """The rows of a table of positions behind the last one that is used."""

    def apply(params, x):
        return jnp.tanh(x @ params["w"] + params["positions"][:7]) @ params["v"]

    shapes = {"w": (2, 4), "positions": (500, 4), "v": (4,)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    group = find_symmetries(apply, params, X).likelihood
    assert {(one.kind, one.size) for one in group.factors} == {(S, 4), ("sign", 4)}
    assert "not used" in next(pin.reason for pin in group.pinned if (pin.site, pin.axis) == ("positions", 0))
