"""Groups in the notation of the literature, to write down what is true of a network and to read what was found.

``S(3, 2)`` is the permutation of three members that each of two others has to itself, (S_3)^2; so for signs ``Z``,
positive scales ``R``, invertible matrices ``GL`` and orthogonal ones ``O``.
"""

from collections import Counter

import jax
import jax.numpy as jnp

from bnn_models import Posterior
from symmetry.discovery import find_symmetries


def S(size, *fibre):
    return "permutation", size, fibre


def Z(size, *fibre):
    return "sign", size, fibre


def R(size, *fibre):
    return "scale", size, fibre


def GL(size, *fibre):
    return "linear", size, fibre


def O(size, *fibre):  # noqa: E743
    return "orthogonal", size, fibre


def factors(group):
    """How many factors there are of each kind, size and fibre, every one with its certificate."""
    for factor in group.factors:
        assert factor.certificate.error <= 1e-10
        assert factor.certificate.control > 1e-9
    return Counter((factor.kind, factor.size, factor.fibre_shape) for factor in group.factors)


def exponents(group, kind, size):
    """Site and dimension to exponent, of each factor of a kind and size; sites that are dotted by their last parts."""
    chosen = (factor for factor in group.factors if (factor.kind, factor.size) == (kind, size))
    return [{(_short(slot.site), slot.axis): slot.exponent for slot in factor.slots} for factor in chosen]


def members(group, kind, size):
    """Sites and dimensions on which the one factor of a kind and size acts."""
    (found,) = exponents(group, kind, size)
    return set(found)


def reason(group, site, axis):
    """Why a dimension of a site is not free; None where it is."""
    return next((pin.reason for pin in group.pinned if (pin.site, pin.axis) == (site, axis)), None)


def shapes(**sizes):
    """Abstract weights."""
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def _short(site):
    return ".".join(site.split(".")[-2:])


def posterior_group(model, *arguments):
    """The posterior's group, every factor with its certificate."""
    group = find_symmetries(Posterior(model, *arguments)).posterior
    assert all(factor.certificate.error <= 1e-10 for factor in group.factors)
    return group


def coloured(group):
    """Kind, size and colours of every factor."""
    return {(factor.kind, factor.size, factor.colours) for factor in group.factors}
