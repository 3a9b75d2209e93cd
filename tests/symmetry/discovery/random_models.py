"""Random Bayesian models: random networks with random priors, some of which tie, order or single out their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import sample
from numpyro.handlers import seed, substitute, trace
from random_networks import X, random_network

from bnn_models import Posterior

RNG = np.random.default_rng(2)
TARGETS = {"gaussian": RNG.standard_normal((5, 4)), "labels": RNG.integers(0, 4, 5)}


def _independent(base, shape):
    return base.expand(shape).to_event(len(shape))


def _per_unit(name, shape):
    """A scale for each position of the last axis, itself latent."""
    scale = sample(f"{name}_scale", dist.HalfNormal(1.0).expand(shape[-1:]).to_event(1))
    return _independent(dist.Normal(0.0, 0.1 + scale), shape)


def _per_row(name, shape):
    """A scale for each position of the first axis, itself latent."""
    scale = sample(f"{name}_scale", dist.HalfNormal(1.0).expand(shape[:1]).to_event(1))
    return _independent(dist.Normal(0.0, 0.1 + scale.reshape(-1, *(1,) * (len(shape) - 1))), shape)


def _hierarchical(name, shape):
    """One latent location and scale for all entries."""
    location, scale = sample(f"{name}_location", dist.Normal(0.0, 1.0)), sample(f"{name}_scale", dist.HalfNormal(1.0))
    return _independent(dist.Normal(location, 0.1 + scale), shape)


def _unequal(name, shape):
    """Two kinds of positions along the last axis."""
    return _independent(dist.Normal(0.0, jnp.where(jnp.arange(shape[-1]) < 2, 1.0, 2.0)), shape)


def _correlated(name, shape):
    """Rows whose entries are equally correlated."""
    n = shape[-1]
    return dist.MultivariateNormal(jnp.zeros(n), 0.5 * jnp.eye(n) + 0.5).expand(shape[:-1]).to_event(len(shape) - 1)


PRIORS = {
    "normal": lambda name, shape: _independent(dist.Normal(0.0, 1.0), shape),
    "laplace": lambda name, shape: _independent(dist.Laplace(0.0, 1.0), shape),
    "off_centre": lambda name, shape: _independent(dist.Normal(0.5, 1.0), shape),
    "positive": lambda name, shape: _independent(dist.LogNormal(0.0, 0.5), shape),
    "shares": lambda name, shape: dist.Dirichlet(jnp.ones(shape[-1])).expand(shape[:-1]).to_event(len(shape) - 1),
    "ordered": lambda name, shape: dist.ImproperUniform(
        dist.constraints.ordered_vector, shape[:-1], shape[-1:]
    ).to_event(len(shape) - 1),
    "flat": lambda name, shape: dist.ImproperUniform(dist.constraints.real, (), shape),
    "bounded": lambda name, shape: _independent(dist.Uniform(-1.0, 1.0), shape),
    "truncated": lambda name, shape: _independent(dist.TruncatedNormal(0.0, 1.0, low=-2.0), shape),
    "per_unit": _per_unit,
    "per_row": _per_row,
    "hierarchical": _hierarchical,
    "unequal": _unequal,
    "correlated": _correlated,
}


def random_posterior(number):
    """A posterior, the names of its operations, and those of the priors of its sites."""
    apply, shapes, operations = random_network(number)
    rng = np.random.default_rng((number, 1))
    # Two thirds of the time a site has the commonest prior, for else few symmetries would survive.
    priors = {name: rng.choice(["normal"] * 2 * len(PRIORS) + [*PRIORS]) for name in shapes}
    kind = rng.choice([*TARGETS])

    def model(x, y):
        weights = {name: sample(name, PRIORS[priors[name]](name, leaf.shape)) for name, leaf in shapes.items()}
        output = apply(weights, x)
        if kind == "labels":
            sample("y", dist.Categorical(logits=output), obs=y)
        else:
            sample("y", dist.Normal(output, 0.5).to_event(1), obs=y)

    return Posterior(model, np.asarray(X, np.float64), TARGETS[kind]), operations, priors


def random_weights(posterior, rng):
    """Weights inside their supports."""
    abstract = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in posterior.sites.items()}
    position = jax.eval_shape(posterior.unconstrain, abstract)
    draws = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), position)
    return {name: np.asarray(value) for name, value in posterior.constrain(draws).items()}


def sites_outside(posterior, weights):
    """Names of the latent sites whose values are not in their support."""
    model = substitute(seed(posterior.model, jax.random.key(0)), data=jax.tree.map(jnp.asarray, weights))
    found = trace(model).get_trace(*posterior.args, **posterior.kwargs)
    return {name for name, value in weights.items() if not np.all(found[name]["fn"].support(jnp.asarray(value)))}
