"""What `docs/symmetries.md` calls a known limit is one: the function stays as it is, and no factor says so.

A limit that is overcome fails here, and comes off the page.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax
from latent import normal
from truth import GL, O, R, S, Z, factors, reason, shapes

from bnn_models import Posterior
from symmetry import balance
from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 3))
ORDER = [2, 0, 3, 1]
ROTATION = np.linalg.qr(RNG.standard_normal((4, 4)))[0]
MATRIX = RNG.standard_normal((2, 4, 4))


def separate_arrays(p, x):
    return sum(jnp.tanh(x @ p[f"w{k}"]) @ p[f"v{k}"] for k in range(2))


def exchanged(p):
    return {"w0": p["w1"], "v0": p["v1"], "w1": p["w0"], "v1": p["v0"]}


def python_loop(p, x):
    return sum(jnp.tanh(x @ p["w"][k]) @ p["v"][k] for k in range(3))


def mapped(p, x):
    return lax.map(lambda member: jnp.tanh(x @ member["w"]) @ member["v"], p).sum(0)


def members_moved(p):
    return {"w": p["w"][::-1], "v": p["v"][::-1]}


def deep(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), jnp.tanh(x @ p["w"]), p["m"])[0] @ p["v"]


def one_layer_moved(p):
    middle = jnp.stack([p["m"][0][:, jnp.array(ORDER)], p["m"][1][jnp.array(ORDER)]])
    return {"w": p["w"], "m": middle, "v": p["v"]}


def fused_by_head(p, x):
    """Queries, keys and values of one head lie beside each other."""
    query, key, value = jnp.moveaxis((x @ p["qkv"]).reshape(5, 2, 3, 4), 2, 0)
    attention = jax.nn.softmax(jnp.einsum("thd,shd->hts", query, key))
    return jnp.einsum("hts,shd->thd", attention, value).reshape(5, 8) @ p["out"]


def keys_and_queries_mixed(p):
    qkv = p["qkv"].reshape(3, 2, 3, 4)
    query = jnp.einsum("nhd,hde->nhe", qkv[:, :, 0], MATRIX)
    key = jnp.einsum("nhd,hed->nhe", qkv[:, :, 1], jnp.linalg.inv(MATRIX))
    return {"qkv": jnp.stack([query, key, qkv[:, :, 2]], 2).reshape(3, 24), "out": p["out"]}


def interleaved(p, x):
    """Two kinds of units in each of two groups, merged into one axis."""
    kinds = [jnp.tanh(jnp.einsum("bi,igj->bgj", x, p[name])) for name in ("a", "b")]
    return jnp.concatenate(kinds, axis=-1).reshape(5, 14) @ p["v"]


def one_group_moved(p):
    a, v = p["a"].at[:, 0].set(p["a"][:, 0, ::-1]), p["v"].at[:3].set(p["v"][2::-1])
    return {"a": a, "b": p["b"], "v": v}


def shuffled(p, x):
    return jnp.tanh(x @ p["w"])[:, jnp.array(ORDER)] @ p["v"]


def units_moved(p):
    return {"w": p["w"][:, [1, 0, 2, 3]], "v": p["v"][jnp.array([0, 3, 2, 1])]}


def reversed_units(p, x):
    return jnp.tanh(x @ p["w"])[:, ::-1] @ p["v"]


def units_moved_in_reverse(p):
    return {"w": p["w"][:, [1, 0, 2, 3]], "v": p["v"][jnp.array([0, 1, 3, 2])]}


def block_diagonal(p, x):
    mask = np.kron(np.eye(2), np.ones((2, 2)))
    return jnp.tanh(jnp.tanh(x @ p["w"]) @ (p["m"] * mask)) @ p["v"]


def blocks_moved(p):
    order = jnp.array([2, 3, 0, 1])
    return {"w": p["w"][:, order], "m": p["m"][order][:, order], "v": p["v"][order]}


def called_back(p, x):
    h = jax.ShapeDtypeStruct((5, 4), jnp.float32)
    return jax.pure_callback(lambda h: np.tanh(h).astype(np.float32), h, x @ p["w"]) @ p["v"]


def first_exchanged(p):
    return {"w": p["w"][:, [1, 0, 2, 3]], "v": p["v"][jnp.array([1, 0, 2, 3])]}


def decomposed(p, x):
    return jnp.linalg.svd(x @ p["w"], compute_uv=False) @ p["v"]


def singular_values_kept(p):
    return {"w": p["w"][:, jnp.array(ORDER)], "v": p["v"]}


def rotary(h):
    angles = jnp.outer(jnp.arange(5.0), jnp.array([1.0, 0.1]))
    first, second = h[:, :2], h[:, 2:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=1)


def rotary_product(p, x):
    return rotary(x @ p["q"]) @ rotary(x @ p["k"]).T


def pairs_rotated(p):
    cos, sin = jnp.cos(0.7), jnp.sin(0.7)
    first, second = (lambda w: w[:, :2]), (lambda w: w[:, 2:])
    return {
        name: jnp.concatenate([first(w) * cos - second(w) * sin, first(w) * sin + second(w) * cos], 1)
        for name, w in p.items()
    }


def sinusoidal(p, x):
    return jnp.sin(x @ p["w"] + p["b"]) @ p["v"]


def half_a_turn(p):
    return {"w": p["w"], "b": p["b"].at[0].add(jnp.pi), "v": p["v"].at[0].multiply(-1)}


def two_biases(p, x):
    return jnp.tanh((x @ p["w"] + p["b"]) @ p["v"] + p["c"])


def bias_shifted(p):
    return p | {"b": p["b"] + 1, "c": p["c"] - p["v"].sum(0)}


def normalised(p, x):
    h = x @ p["w"]
    return (p["gain"] * h / jnp.linalg.norm(h, axis=1, keepdims=True)) @ p["v"]


def rotated_around_the_gain(p):
    v = jnp.diag(1 / p["gain"]) @ ROTATION.T @ jnp.diag(p["gain"]) @ p["v"]
    return {"w": p["w"] @ ROTATION, "gain": p["gain"], "v": v}


MEMBERS = {"w": (3, 3, 4), "v": (3, 4, 2)}
LAYER = {"w": (3, 4), "v": (4, 2)}
LIMITS = {
    "separate arrays": (
        separate_arrays, {"w0": (3, 4), "v0": (4, 2), "w1": (3, 4), "v1": (4, 2)}, exchanged, [S(4), Z(4)] * 2,
    ),
    "Python loop": (python_loop, MEMBERS, members_moved, [S(4), Z(4)]),
    "lax.map": (mapped, MEMBERS, members_moved, [S(4, 3), Z(4, 3)]),
    "layers of a scan": (deep, LAYER | {"m": (2, 4, 4)}, one_layer_moved, [S(4), Z(4)]),
    "(heads, 3, size)": (
        fused_by_head, {"qkv": (3, 24), "out": (8, 2)}, keys_and_queries_mixed, [S(2), S(4), S(4), Z(1)],
    ),
    "merged concatenation": (
        interleaved, {"a": (3, 2, 3), "b": (3, 2, 4), "v": (14, 2)}, one_group_moved, [S(2), S(3), S(4), Z(1)],
    ),
    "fixed shuffle": (shuffled, LAYER, units_moved, [Z(1)]),
    "reversal": (reversed_units, LAYER, units_moved_in_reverse, [Z(1)]),
    "block-diagonal mask": (block_diagonal, LAYER | {"m": (4, 4)}, blocks_moved, [S(4), S(4), Z(4), Z(4)]),
    "primitive without a rule": (called_back, LAYER, first_exchanged, []),
    "matrix decomposition": (decomposed, LAYER, singular_values_kept, []),
    "rotary positions": (rotary_product, {"q": (3, 4), "k": (3, 4)}, pairs_rotated, [Z(2), R(2)]),
    "phases": (sinusoidal, LAYER | {"b": (4,)}, half_a_turn, [S(4), Z(4)]),
    "biases": (two_biases, LAYER | {"b": (4,), "c": (2,)}, bias_shifted, [GL(4)]),
    "gain": (normalised, LAYER | {"gain": (4,)}, rotated_around_the_gain, [S(4), Z(4), Z(4), R(4), R(1)]),
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_a_symmetry_that_is_missed(limit):
    apply, sizes, move, found = LIMITS[limit]
    assert factors(find_symmetries(apply, shapes(**sizes), X).likelihood) == Counter(found)
    with jax.enable_x64(True):
        weights = {name: jnp.asarray(RNG.standard_normal(size)) for name, size in sizes.items()}
        moved = move(weights)
        assert any(not np.allclose(moved[name], weights[name]) for name in weights)
        np.testing.assert_allclose(apply(moved, X), apply(weights, X), rtol=1e-9, atol=1e-9)


def low_rank(y):
    loadings = normal("loadings", 5, 2)
    numpyro.sample("y", dist.LowRankMultivariateNormal(jnp.zeros(5), loadings, jnp.ones(5)), obs=y)


def dense(y):
    loadings = normal("loadings", 5, 2)
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(5), loadings @ loadings.T + jnp.eye(5)), obs=y)


@pytest.mark.parametrize(("model", "found"), [(low_rank, [Z(1)]), (dense, [O(2)])])
def test_rotations_of_a_low_rank_normal_are_missed(model, found):
    posterior = Posterior(model, RNG.standard_normal((7, 5)))
    assert factors(find_symmetries(posterior).posterior) == Counter(found)


def regression(x, y):
    numpyro.sample("y", dist.Normal(x @ normal("slopes", 3), 1.0), obs=y)


def test_equal_columns_of_the_data_are_not_exchanged():
    found = find_symmetries(Posterior(regression, X[:, [0, 0, 1]], X[:, 2])).posterior
    assert factors(found) == Counter()
    assert reason(found, "slopes", 0) == "data of argument x"


def mixture(y, concentration):
    weights = numpyro.sample("weights", dist.Dirichlet(concentration))
    components = dist.Normal(normal("means", 3), 1.0)
    with numpyro.plate("observation", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=y)


def test_arguments_of_a_model_are_data_though_their_entries_be_equal():
    found = find_symmetries(Posterior(mixture, X[:, 0], jnp.ones(3)))
    assert factors(found.posterior) == Counter()
    assert reason(found.posterior, "weights", 0) == "data of argument concentration"
    assert factors(found.likelihood) == Counter([S(3)])
    assert [broken.sites for broken in found.broken] == [()]


def test_positions_told_apart_by_equal_constants_may_be_exchanged():
    found = find_symmetries(Posterior(lambda y: mixture(y, jnp.ones(3)), X[:, 0]))
    assert factors(found.posterior) == Counter([S(3)])


def heads(p, x):
    return jnp.einsum("bhi,hin->bn", jax.nn.relu(jnp.einsum("bm,mhi->bhi", x, p["w"])), p["v"])


def test_balancing_gives_all_heads_one_scale():
    group = find_symmetries(heads, shapes(w=(3, 2, 4), v=(2, 4, 2)), X).likelihood
    weights = {site: RNG.standard_normal(shape) for site, shape in group.sites.items()}
    (scales,) = balance(weights, group).values()
    assert scales.shape == (2, 4)
    np.testing.assert_array_equal(scales[0], scales[1])
    alone = (np.sum(weights["v"] ** 2, axis=2) / np.sum(weights["w"] ** 2, axis=0)) ** 0.25
    assert np.abs(alone[0] - alone[1]).min() > 0.01
