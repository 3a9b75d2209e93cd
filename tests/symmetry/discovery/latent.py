"""Latent sites of a few letters, for models that are mostly latent sites."""

import numpyro.distributions as dist
from numpyro import sample


def normal(name, *shape, loc=0.0, scale=1.0):
    return sample(name, dist.Normal(loc, scale).expand(shape).to_event(len(shape)))


def positive(name, *shape):
    return sample(name, dist.HalfNormal(1.0).expand(shape).to_event(len(shape)))
