"""The true groups of attention: heads, the bases of queries and keys and of values, gains, and the residual stream."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from subsets import first
from truth import GL, O, R, S, Z, exponents, factors, members, reason, shapes

from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 4, 3)))
TOKENS = jnp.asarray(RNG.integers(0, 5, (2, 4)))
CAUSAL = jnp.tril(jnp.ones((4, 4), bool))
H, D, N = 2, 3, 6  # heads, width of a head, width of the stream


def discover(apply, x=X, **sizes):
    return find_symmetries(apply, shapes(**sizes), x).likelihood


def attend(q, k, v, mask=None):
    """Softmax attention; queries, keys and values are ``(batch, token, head, width)``."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(q.shape[-1])
    scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v)


def heads(q, k, v, out, mask=None):
    """Attention from given projections, summed over heads: a last layer with one matrix for each."""
    return jnp.einsum("bthd,hdn->btn", attend(q, k, v, mask), out)


class Block(linen.Module):
    """A transformer block with its normalisations before attention and perceptron."""

    @linen.compact
    def __call__(self, x):
        h = linen.LayerNorm(name="norm_0")(x)
        x = x + linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, name="attention")(h)
        h = linen.Dense(10, name="inner")(linen.LayerNorm(name="norm_1")(x))
        return x + linen.Dense(8, name="outer")(jax.nn.gelu(h))


class Transformer(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Dense(8, name="embedding")(x) + self.param("position", linen.initializers.ones, (4, 8))
        return linen.Dense(2, name="head")(linen.LayerNorm(name="norm")(Block(name="block")(x)))


def test_transformer():
    """Of what is affine in the weights alone nothing is missing; the scale of the stream is free up to epsilon only."""
    params = jax.eval_shape(Transformer().init, jax.random.key(0), X)["params"]
    found = find_symmetries(lambda params, x: Transformer().apply({"params": params}, x), params, X).likelihood
    bases, gains, stream = {GL(3, 2): 2, S(2): 1}, {R(8): 3, Z(8): 3}, {S(8): 1, Z(1): 1}
    assert factors(found) == Counter(bases | gains | stream | {S(10): 1})
    keys = {("key.kernel", 2): 1, ("query.kernel", 2): -1, ("key.bias", 1): 1, ("query.bias", 1): -1}
    assert keys in exponents(found, "linear", 3)
    assert {("value.kernel", 2): -1, ("value.bias", 1): -1, ("out.kernel", 1): 1} in exponents(found, "linear", 3)
    assert {("head.kernel", 0): 1, ("norm.bias", 0): -1, ("norm.scale", 0): -1} in exponents(found, "scale", 8)
    everywhere = {("query.kernel", 1), ("query.bias", 0), ("out.kernel", 0), ("value.kernel", 1)}
    assert members(found, "permutation", 2) >= everywhere


def fused(split):
    """Queries, keys and values from one kernel, causal, normalised by their root mean square, tokens embedded."""

    def apply(p, tokens):
        def norm(x):
            return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)

        x = p["embed"][tokens]
        q, k, v = split(norm(x) @ p["qkv"])
        x = x + attend(q, k, v, CAUSAL).reshape(*x.shape[:2], H * D) @ p["out"]
        x = x + jax.nn.relu(norm(x) @ p["up"]) @ p["down"]
        return norm(x) @ p["head"]

    return apply


FUSED = {"embed": (5, N), "qkv": (N, 3 * H * D), "out": (H * D, N), "up": (N, 7), "down": (7, N), "head": (N, 2)}
SPLITS = {
    "split": lambda qkv: (part.reshape(*part.shape[:2], H, D) for part in jnp.split(qkv, 3, axis=-1)),
    "slices": lambda qkv: (qkv[..., i * H * D : (i + 1) * H * D].reshape(2, 4, H, D) for i in range(3)),
    "reshape": lambda qkv: (qkv.reshape(2, 4, 3, H, D)[:, :, i] for i in range(3)),
    "unstack": lambda qkv: jnp.unstack(qkv.reshape(2, 4, 3, H, D), axis=2),
    "moveaxis": lambda qkv: jnp.moveaxis(qkv.reshape(2, 4, 3, H, D), 2, 0),
}


@pytest.mark.parametrize("split", first(2, SPLITS))
def test_fused_projections_of_a_causal_language_model(split):
    """Without gains the stream has any orthonormal basis, O(6); however the kernel is cut, its parts are their own."""
    found = discover(fused(SPLITS[split]), TOKENS, **FUSED)
    assert factors(found) == Counter({S(2): 1, GL(3, 2): 2, S(7): 1, R(7): 1, O(6): 1})
    stream = {("embed", 1), ("qkv", 0), ("out", 1), ("up", 0), ("down", 1), ("head", 0)}
    assert members(found, "orthogonal", 6) == stream
    offsets = [{(s.site, s.offset) for s in factor.slots} for factor in found.factors if factor.kind == "linear"]
    assert {("qkv", 0), ("qkv", 6)} in offsets
    assert {("qkv", 12), ("out", 0)} in offsets


def projections(p, x, *names):
    return (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in names)


SEPARATE = {"q": (3, H, D), "k": (3, H, D), "v": (3, H, D), "out": (H, D, 2)}


def test_separate_projections():
    """S_2 wr (GL(3) x GL(3)); queries with the inverse transpose of what the keys get."""
    found = discover(lambda p, x: heads(*projections(p, x, "q", "k", "v"), p["out"]), **SEPARATE)
    assert factors(found) == Counter({S(2): 1, GL(3, 2): 2})
    assert members(found, "permutation", 2) == {("q", 1), ("k", 1), ("v", 1), ("out", 0)}
    assert {("k", 2): 1, ("q", 2): -1} in exponents(found, "linear", 3)
    assert {("out", 1): 1, ("v", 2): -1} in exponents(found, "linear", 3)


def test_keys_and_values_shared_by_all_heads():
    """Multi-query attention: one basis for all heads, and the heads still change places."""

    def apply(p, x):
        shared = (jnp.broadcast_to((x @ p[name])[:, :, None], (2, 4, H, D)) for name in "kv")
        return heads(*projections(p, x, "q"), *shared, p["out"])

    found = discover(apply, q=(3, H, D), k=(3, D), v=(3, D), out=(H, D, 2))
    assert factors(found) == Counter({S(2): 1, GL(3): 2})


def test_attention_over_memory():
    """Cross attention to learned slots, which are a set: S_5 beside the bases of the heads."""

    def apply(p, x):
        memory = (jnp.einsum("sm,mhd->shd", p["memory"], p[name])[None] for name in "kv")
        return heads(*projections(p, x, "q"), *(jnp.broadcast_to(m, (2, 5, H, D)) for m in memory), p["out"])

    found = discover(apply, q=(3, H, D), memory=(5, 4), k=(4, H, D), v=(4, H, D), out=(H, D, 2))
    assert factors(found) == Counter({S(2): 1, GL(3, 2): 2, S(5): 1, GL(4): 1})
    assert members(found, "permutation", 5) == {("memory", 0)}
    assert exponents(found, "linear", 4) == [{("k", 0): 1, ("memory", 1): -1, ("v", 0): 1}]


def rotary(h):
    """Rotate the pairs (i, i + 2) of each query or key by an angle that grows with its position."""
    angles = np.arange(4)[:, None] * np.array([1.0, 0.1])
    cos, sin = (jnp.asarray(f(angles))[:, None].astype(h.dtype) for f in (np.cos, np.sin))
    first, second = h[..., :2], h[..., 2:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def test_rotary_positions():
    """They fix the basis of queries and keys up to one number and one sign a pair; that of the values is free."""

    def apply(p, x):
        q, k, v = projections(p, x, "q", "k", "v")
        return heads(rotary(q), rotary(k), v, p["out"], CAUSAL)

    found = discover(apply, q=(3, H, 4), k=(3, H, 4), v=(3, H, 4), out=(H, 4, 2))
    assert factors(found) == Counter({S(2): 1, GL(4, 2): 1, R(2, 2): 1, Z(2, 2): 1})


def test_normalised_queries_and_keys():
    """Lengths of queries and keys do not count: a common orthonormal basis, and their scales one by one."""

    def unit(h):
        return h / jnp.sqrt((h**2).sum(-1, keepdims=True))

    def apply(p, x):
        q, k, v = projections(p, x, "q", "k", "v")
        return heads(unit(q), unit(k), v, p["out"])

    found = discover(apply, **SEPARATE)
    assert factors(found) == Counter({S(2): 1, GL(3, 2): 1, O(3, 2): 1, R(2): 2})


def test_attention_without_softmax_and_heads():
    """Linear attention: a basis of keys and queries, one of values and outputs, and a number between the two."""

    def apply(p, x):
        return (x @ p["q"]) @ jnp.swapaxes(x @ p["k"], 1, 2) @ (x @ p["v"]) @ p["out"]

    found = discover(apply, q=(3, 4), k=(3, 4), v=(3, 5), out=(5, 2))
    assert factors(found) == Counter([GL(4), GL(5), R(1), Z(1)])


def test_talking_heads_do_not_change_places_alone():
    """Heads mixed after the softmax: those before and those after the mixing are two sets."""

    def apply(p, x):
        q, k, v = projections(p, x, "q", "k", "v")
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k), axis=-1)
        mixed = jnp.einsum("bhts,hg->bgts", weights, p["mix"])
        return jnp.einsum("bgts,bsgd,gdn->btn", mixed, v, p["out"])

    found = discover(apply, q=(3, 2, D), k=(3, 2, D), mix=(2, 4), v=(3, 4, D), out=(4, D, 2))
    assert factors(found) == Counter([S(2), GL(3, 2), S(4), R(4), Z(4), GL(3, 4)])


def test_positions_break_the_order_of_tokens():
    """Learned positions move along with the order of the tokens, which are data: pinned."""
    found = discover(lambda p, x: jnp.tanh(x + p["position"]).mean(1) @ p["out"], position=(4, 3), out=(3, 2))
    assert factors(found) == Counter()
    assert reason(found, "position", 0) == "network input"
