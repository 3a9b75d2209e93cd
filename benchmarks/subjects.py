"""One search for symmetries, in its own process: `python -m benchmarks.subjects NAME`.

Prints one line of JSON: seconds of `find_symmetries` (imports and the making of the model apart) by the clock and of
all cores, seconds of a second call with the same model, the equations that were read, the factors that were found, the
largest error and the least control of their certificates, and peak memory.
"""

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import architectures
from bnn_models import BNN, Posterior, likelihoods, networks, priors
from symmetry import find_symmetries
from symmetry.discovery.functions import Function
from symmetry.discovery.trace import function_program, posterior_programs

Subject = tuple[tuple[Any, ...], bool]
"""What `find_symmetries` takes, and whether it is to certify."""

NUM_ROWS = 50_000


def function(build: Callable[[], architectures.Abstract], *, certify: bool) -> Subject:
    """A network without numbers."""
    network = build()
    return (network.apply, network.params, network.x), certify


def posterior(*widths: int) -> Subject:
    """A Bayesian network with many rows of data."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((NUM_ROWS, widths[0])), rng.standard_normal(NUM_ROWS)
    model = BNN(networks.mlp(widths, activation="tanh"), priors.fan_in(priors.normal()), likelihoods.normal())
    return (Posterior(model, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)),), True


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "ResNet-50, shapes": partial(function, architectures.resnet50, certify=False),
    "GPT-2 small, shapes": partial(function, architectures.gpt2, certify=False),
    "ResNet-18": partial(function, architectures.resnet18, certify=True),
    "ResNet-18, width / 8": partial(function, partial(architectures.resnet18, 8), certify=True),
    "GPT, 2 layers of 64": partial(function, architectures.small_gpt, certify=True),
    "BNN 10-16-1": partial(posterior, 10, 16, 1),
    "BNN 10-50-50-1": partial(posterior, 10, 50, 50, 1),
}


def main() -> None:
    """Search once, and once more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SUBJECTS)
    arguments, certify = SUBJECTS[parser.parse_args().name]()
    warnings.simplefilter("error", RuntimeWarning)
    begin, worked = time.perf_counter(), time.process_time()
    found = find_symmetries(*arguments, certify=certify)
    middle, worked = time.perf_counter(), time.process_time() - worked
    find_symmetries(*arguments, certify=certify)
    end = time.perf_counter()
    groups = [group for group in (found.posterior, found.likelihood) if group is not None]
    certificates = [factor.certificate for group in groups for factor in group.factors if factor.certificate]
    result = {
        "seconds": middle - begin,
        "cpu_seconds": worked,
        "seconds_again": end - middle,
        "equations": num_equations(*arguments),
        "factors": len(groups[0].factors),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if certificates:
        result["error"] = max(certificate.error for certificate in certificates)
        result["control"] = min(certificate.control for certificate in certificates)
    print(json.dumps(result))


def num_equations(model: Any, *arguments: Any) -> int:
    """Equations of the program that is read; of a posterior's, the log joint with the observations."""
    if not arguments:
        return len(posterior_programs(model)[0].equations)
    whole = Function.of(model, *arguments)
    return len(function_program(whole, whole.inputs, whole.sites).equations)


if __name__ == "__main__":
    main()
