"""What is believed: networks, priors and likelihoods as NumPyro models, their data, and the posterior of both."""

from . import datasets as datasets
from . import likelihoods as likelihoods
from . import networks as networks
from . import priors as priors
from .bnn import BNN as BNN
from .posterior import Posterior as Posterior

__all__ = ["BNN", "Posterior", "datasets", "likelihoods", "networks", "priors"]
