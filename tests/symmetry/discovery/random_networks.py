"""Random networks: chains of operations on a hidden state, most of which tell some positions apart and others not.

The state is ``(batch, n)`` or ``(batch, h, n)``. What acts along h alone, or on every h by itself, is what an analysis
that lets units vary from one h to the next can get wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

X = jnp.asarray(np.random.default_rng(1).standard_normal((5, 3)))
LARGEST = 24


def _dense(h, new, width):
    return h @ new(h.shape[-1], width)


def _square(h, new, axis=-1):
    return new(h.shape[axis], h.shape[axis])


def _conv(h, kernel, groups=1):
    """Convolution along the middle dimension."""
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(h, kernel, (1,), "SAME", dimension_numbers=numbers, feature_group_count=groups)


def _softmax_over(scores, values):
    return jax.nn.softmax(scores, axis=-1) @ values


def _attention(h, new):
    """Two heads of width two, the members of h being the tokens."""
    q, k, v = (jnp.einsum("btn,ncd->bctd", h, new(h.shape[2], 2, 2)) for _ in range(3))
    mixed = _softmax_over(q @ jnp.swapaxes(k, 2, 3), v)
    return jnp.einsum("bctd,cdn->btn", mixed, new(2, 2, h.shape[2]))


def _recurrence(h, new):
    """The members of h one after the other."""
    u = _square(h, new)

    def step(c, x):
        c = jnp.tanh(c @ u + x)
        return c, c

    return jnp.swapaxes(lax.scan(step, jnp.zeros_like(h[:, 0]), jnp.swapaxes(h, 0, 1))[1], 0, 1)


def _layers(h, new):
    """Two residual layers in a scan."""
    n = h.shape[-1]
    weights = new(2, n, 3), new(2, 3, n)
    return lax.scan(lambda h, w: (h + jax.nn.relu(h @ w[0]) @ w[1], None), h, weights)[0]


def _loop(h, new):
    u = _square(h, new)
    return lax.fori_loop(0, 2, lambda i, c: jnp.tanh(c @ u) + h, h)


def _while(h, new):
    return lax.while_loop(lambda c: (c**2).sum() > 1, lambda c: c / 2, h)


def _branch(h, new):
    return lax.cond(h.sum() > 0, jnp.tanh, lambda h: h / 2, h)


def _unit(h):
    return h * lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-2)


def _layer_norm(h, new):
    return _unit(h - h.mean(-1, keepdims=True)) * new(h.shape[-1]) + new(h.shape[-1])


def _concat_units(h, new):
    return jnp.concatenate([h, jnp.tanh(_dense(h, new, 2))], axis=-1)


def _tied(h, kernel):
    return jnp.tanh(h @ kernel) @ kernel.T


def _gated(h, new):
    return h * jax.nn.sigmoid(h @ _square(h, new))


# Of any state: along its last dimension, entry by entry, or on the whole.
GENERAL = {
    "linear": lambda h, new: _dense(h, new, 3),
    "affine": lambda h, new: _dense(h, new, 4) + new(4),
    "linear_residual": lambda h, new: h + _dense(h, new, 2) @ new(2, h.shape[-1]),
    "residual": lambda h, new: h + jnp.tanh(_dense(h, new, 3)) @ new(3, h.shape[-1]),
    "tanh": lambda h, new: jnp.tanh(h),
    "relu": lambda h, new: jax.nn.relu(h),
    "abs": lambda h, new: jnp.abs(h),
    "square": lambda h, new: h**2,
    "gelu": lambda h, new: jax.nn.gelu(h),
    "shift": lambda h, new: h + 1,
    "gain": lambda h, new: h * new(h.shape[-1]),
    "gate": _gated,
    "self_product": lambda h, new: h * (h @ _square(h, new)),
    "total": lambda h, new: h * h.sum(-1, keepdims=True),
    "quotient": lambda h, new: h / (1 + jnp.abs(h).sum(-1, keepdims=True)),
    "length": lambda h, new: _unit(h),
    "layer_norm": _layer_norm,
    "softmax": lambda h, new: jax.nn.softmax(h, axis=-1),
    "concat": _concat_units,
    "halves": lambda h, new: h[..., : (h.shape[-1] + 1) // 2],
    "roll": lambda h, new: jnp.roll(h, 1, axis=-1),
    "cumsum": lambda h, new: jnp.cumsum(h, axis=-1),
    "rev": lambda h, new: h[..., ::-1],
    "sort": lambda h, new: jnp.sort(h, axis=-1),
    "extremes": lambda h, new: jnp.concatenate([h.max(-1, keepdims=True), h.min(-1, keepdims=True), h], axis=-1),
    "pad": lambda h, new: jnp.pad(h, [(0, 0)] * (h.ndim - 1) + [(1, 0)]),
    "mask": lambda h, new: jnp.where(jnp.arange(h.shape[-1]) < 2, h, 0.0),
    "compare": lambda h, new: jnp.where(h > h.mean(-1, keepdims=True), h, -h),
    "take": lambda h, new: h[..., jnp.arange(h.shape[-1]) // 2],
    "tied": lambda h, new: _tied(h, new(h.shape[-1], 3)),
    "low_rank": lambda h, new: h @ (new(h.shape[-1], 2) @ new(2, 3)),
    "weight_norm": lambda h, new: h @ (lambda w: w / jnp.sqrt((w**2).sum(0)))(new(h.shape[-1], 3)),
    "stochastic_rows": lambda h, new: h @ jax.nn.softmax(new(h.shape[-1], 3), axis=1),
    "generated": lambda h, new: h @ jnp.tensordot(new(2), new(2, h.shape[-1], 3), 1),
    "quadratic_form": lambda h, new: h * jnp.einsum("...n,nm,...m->...", h, _square(h, new), h)[..., None],
    "shared_rows": lambda h, new: _dense(h, new, 3) + new(2, 3)[jnp.array([0, 1, 1, 0, 1])][:, *(None,) * (h.ndim - 2)],
    "condition_on_data": lambda h, new: jnp.where(X.sum(1).reshape(5, *(1,) * (h.ndim - 1)) > 0, h, jnp.tanh(h)),
    "noise": lambda h, new: h + jax.random.normal(jax.random.key(0), h.shape[1:]),
    "dropout": lambda h, new: jnp.where(jax.random.bernoulli(jax.random.key(1), 0.7, h.shape), h, 0.0),
    "greatest": lambda h, new: h * (h == h.max(-1, keepdims=True)),
    "layers": _layers,
    "loop": _loop,
    "while": _while,
    "branch": _branch,
}

# Of a state (batch, n); those that lift it to (batch, h, n) come last.
FLAT = {
    "refold": lambda h, new: h.reshape(5, 2, -1).sum(1) if h.shape[1] % 2 == 0 else h,
    "transpose": lambda h, new: (h.T + new(h.shape[1], 1)).T,
    "batch_attention": lambda h, new: _softmax_over(h @ h.T, h),
    "kernel_machine": lambda h, new: jnp.exp(-((h[:, None] - new(3, h.shape[1])) ** 2).sum(2)),
    "heads": lambda h, new: jnp.einsum("bn,nhm->bhm", h, new(h.shape[1], 2, 3)),
    "split_heads": lambda h, new: _dense(h, new, 6).reshape(5, 3, 2),
    "stack": lambda h, new: jnp.stack([_dense(h, new, 3), jnp.tanh(_dense(h, new, 3))], axis=1),
    "outer": lambda h, new: h[:, :, None] * jnp.tanh(_dense(h, new, 2))[:, None],
    "ensemble": lambda h, new: jax.vmap(lambda w: jax.nn.relu(h @ w), out_axes=1)(new(3, h.shape[1], 2)),
    "copies": lambda h, new: jnp.broadcast_to(h[:, None], (5, 2, h.shape[1])) * new(2, 1),
}

# Of a state (batch, h, n), along h or member by member.
DEEP = {
    "member_dense": lambda h, new: jnp.einsum("bhn,hnm->bhm", h, new(*h.shape[1:], 2)),
    "member_map": lambda h, new: jax.vmap(lambda h, w: jnp.tanh(h @ w), (1, 0), 1)(h, new(*h.shape[1:], 3)),
    "member_loop": lambda h, new: lax.map(
        lambda p: p[0] @ p[1], (jnp.swapaxes(h, 0, 1), new(*h.shape[1:], 3))
    ).swapaxes(0, 1),
    "member_gain": lambda h, new: h * new(h.shape[1], 1),
    "entry_gain": lambda h, new: h * new(*h.shape[1:]),
    "entry_bias": lambda h, new: jnp.tanh(h + new(*h.shape[1:])),
    "member_cumsum": lambda h, new: jnp.cumsum(h, axis=1),
    "member_rev": lambda h, new: h[:, ::-1],
    "member_roll": lambda h, new: h + jnp.roll(h, 1, axis=1),
    "member_sort": lambda h, new: jnp.sort(h, axis=1),
    "member_softmax": lambda h, new: jax.nn.softmax(h, axis=1),
    "member_centre": lambda h, new: h - h.mean(1, keepdims=True),
    "member_maximum": lambda h, new: h - h.max(1, keepdims=True),
    "member_first": lambda h, new: h - h[:, :1],
    "member_mixing": lambda h, new: h + jnp.einsum("bhn,hg->bgn", h, _square(h, new, 1)),
    "member_filters": lambda h, new: h + jnp.einsum("bhn,hgn->bgn", h, new(h.shape[1], *h.shape[1:])),
    "member_causal": lambda h, new: jnp.einsum("bhn,hg->bgn", h, jnp.tril(jnp.ones((h.shape[1],) * 2))),
    "member_conv": lambda h, new: _conv(h, new(2, h.shape[2], 3)),
    "member_depthwise": lambda h, new: _conv(h, new(2, 1, h.shape[2]), groups=h.shape[2]),
    "member_channels": lambda h, new: jnp.swapaxes(_conv(jnp.swapaxes(h, 1, 2), new(1, h.shape[1], 3)), 1, 2),
    "member_pool": lambda h, new: lax.reduce_window(h, 0.0, lax.add, (1, 2, 1), (1, 1, 1), "SAME"),
    "member_mask": lambda h, new: jnp.where(jnp.arange(h.shape[1])[:, None] < 1, h, jnp.tanh(h)),
    "member_take": lambda h, new: h[:, jnp.arange(h.shape[1]) // 2],
    "member_concat": lambda h, new: jnp.concatenate([h, jnp.tanh(h @ _square(h, new))], axis=1),
    "member_gate": lambda h, new: h * jax.nn.sigmoid(h.mean(2) @ _square(h, new, 1))[:, :, None],
    "member_order": lambda h, new: jnp.take_along_axis(h, jnp.argsort(h.mean(2), axis=1)[:, :, None], axis=1),
    "member_share": lambda h, new: h * jax.nn.softmax(new(h.shape[1]))[:, None],
    "neighbours": lambda h, new: h * (h * jnp.roll(h, 1, axis=1)).sum(2, keepdims=True),
    "distances": lambda h, new: ((h[:, :, None] - h[:, None]) ** 2).sum(3),
    "member_lookup": lambda h, new: lax.fori_loop(0, 2, lambda i, c: c + h[:, i, None], h),
    "recurrence": _recurrence,
    "attention": _attention,
    "gram": lambda h, new: jnp.einsum("bhn,bgn->bhg", h, h),
    "gram_of_units": lambda h, new: jnp.einsum("bhn,bhm->bnm", h, h),
    "self_attention": lambda h, new: h + _softmax_over(h @ jnp.swapaxes(h, 1, 2), h),
    "swap": lambda h, new: jnp.swapaxes(h, 1, 2),
    "unfold": lambda h, new: h.reshape(5, h.shape[2], h.shape[1]),
    "flatten": lambda h, new: h.reshape(5, -1),
    "sum_of_heads": lambda h, new: jnp.einsum("bhn,hnm->bm", h, new(*h.shape[1:], 3)),
    "mean_of_members": lambda h, new: h.mean(1),
    "maximum_of_members": lambda h, new: h.max(1),
    "last_member": lambda h, new: h[:, -1],
}
OPERATIONS = GENERAL | FLAT | DEEP
LIFTING = ("heads", "split_heads", "stack", "outer", "ensemble", "copies")


def random_network(seed):
    """A chain of random operations, its parameters in a dict by name, and the names of the operations."""
    rng = np.random.default_rng(seed)
    shapes, names = {}, []

    def abstract(*shape):
        shapes[f"p{len(shapes):02d}"] = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jnp.zeros(shape)

    def extend(name, state):
        names.append(name)
        return jax.eval_shape(lambda h: OPERATIONS[name](h, abstract), state)

    state = extend("affine", jax.ShapeDtypeStruct(X.shape, X.dtype))
    for _ in range(rng.integers(3, 8)):
        state = extend(_choose(rng, state.shape), state)
    if len(state.shape) == 3:
        state = extend(rng.choice(["flatten", "sum_of_heads", "mean_of_members"]), state)
    extend("affine", state)

    def apply(params, x):
        source = iter(params.values())
        for name in names:
            x = OPERATIONS[name](x, lambda *shape: next(source))
        return x

    return apply, shapes, names


def _choose(rng, shape):
    """An operation for a state of this shape: often one that makes, or that needs, a second dimension."""
    if np.prod(shape[1:]) > LARGEST:
        return "linear" if len(shape) == 2 else "mean_of_members"
    if len(shape) == 2:
        return rng.choice([*(GENERAL | FLAT), *(3 * LIFTING)])
    return rng.choice([*GENERAL, *(2 * [*DEEP])])
