r"""The posteriors P1, P2 and P3: Bayesian networks on real data, as this library and as the peers see them.

| | data | network | likelihood | parameters |
|---|---|---|---|---|
| P1 | diabetes, 392 rows | 10-16-1 tanh | normal, half-normal(1) scale | 194 |
| P2 | diabetes, 392 rows | 10-16-16-1 ReLU | the same | 466 |
| P3 | digits, 1747 rows | 64-10-10 tanh | categorical | 760 |

In P1 and P2 a layer of this library has weights $w \sim N(0, 1/n_{in})$; a peer has $z \sim N(0, 1)$ and divides by
$\sqrt{n_{in}}$. Both are the same posterior, $w = z / \sqrt{n_{in}}$, and their log densities differ by a constant. In
P3 all weights are $N(0, 1)$ and nothing is divided.
"""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.peers import exchange
from bnn_models import BNN, Posterior, datasets, likelihoods, networks, priors

NUM_POSITIONS = 20


@dataclass(frozen=True)
class Problem:
    """A posterior's data, network and likelihood.

    Attributes:
        dataset: one of scikit-learn's; 50 rows are held out.
        widths: numbers of units, from input to output.
        activation: its name in `jax.nn`.
        likelihood: `normal` or `categorical`.
        scaled: whether the prior of a weight has the variance 1 / number of inputs, instead of 1.
        num_draws: kept draws a chain that its comparison needs.
    """

    dataset: str
    widths: tuple[int, ...]
    activation: str
    likelihood: str
    scaled: bool
    num_draws: int

    @cached_property
    def data(self) -> datasets.Data:
        """The data, split and standardised."""
        return datasets.load(self.dataset, seed=0)

    @property
    def probes(self) -> Array:
        """The held-out inputs."""
        return jnp.asarray(self.data.x_test)

    def posterior(self) -> Posterior:
        """As this library has it, in JAX's default precision."""
        network = networks.mlp(self.widths, activation=self.activation)
        normal = priors.normal(scale=1.0)
        model = BNN(
            network,
            prior=priors.fan_in(normal) if self.scaled else normal,
            likelihood=likelihoods.normal() if self.likelihood == "normal" else likelihoods.categorical(),
        )
        return Posterior(model, jnp.asarray(self.data.x_train), jnp.asarray(self.data.y_train))

    def exchanged(self) -> tuple[exchange.Problem, np.ndarray]:
        """As the peers have it, and this library's log densities at its positions, in float64."""
        y = self.data.y_train
        problem = exchange.Problem(
            self.widths,
            self.activation,
            self.likelihood,
            self.scaled,
            x=np.asarray(self.data.x_train, np.float64),
            y=np.asarray(y, np.int64 if self.likelihood == "categorical" else np.float64),
            probes=np.asarray(self.data.x_test, np.float64),
            positions={},
        )
        rng = np.random.default_rng(1)
        ours: dict[str, np.ndarray] = {}
        for i, num_inputs, num_outputs, factor in problem.layers:
            layer = "head" if i == len(problem.layers) - 1 else f"hidden_{i}"
            problem.positions[f"w{i}"] = rng.normal(size=(NUM_POSITIONS, num_inputs, num_outputs))
            problem.positions[f"b{i}"] = rng.normal(size=(NUM_POSITIONS, num_outputs))
            ours[f"{layer}.kernel"] = factor * problem.positions[f"w{i}"]
            ours[f"{layer}.bias"] = problem.positions[f"b{i}"]
        if self.likelihood == "normal":
            ours["scale"] = problem.positions["log_scale"] = np.log(np.abs(rng.normal(size=NUM_POSITIONS)))
        with jax.enable_x64(True):
            logdensity = jax.jit(self.posterior().logdensity)
            rows = [logdensity({site: value[row] for site, value in ours.items()}) for row in range(NUM_POSITIONS)]
        return problem, np.array(rows, np.float64)


PROBLEMS = {
    "P1": Problem("diabetes", (10, 16, 1), "tanh", "normal", scaled=True, num_draws=500),
    "P2": Problem("diabetes", (10, 16, 16, 1), "relu", "normal", scaled=True, num_draws=500),
    "P3": Problem("digits", (64, 10, 10), "tanh", "categorical", scaled=False, num_draws=2000),
}


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How far log densities are from others up to a constant.

    Args:
        ours: at some positions.
        theirs: there; leading axes are of several densities.

    Returns:
        The largest deviation of a difference between two positions, relative to the largest such difference.
    """
    ours, theirs = ours[1:] - ours[0], theirs[..., 1:] - theirs[..., :1]
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())
