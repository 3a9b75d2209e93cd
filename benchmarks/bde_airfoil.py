r"""A whole run of bde beside ours on the airfoil data: `python -m benchmarks.bde_airfoil [--quick]`.

Both have the same split (a fifth held out, `random_state` 0), standardisation, network 5-16-16-16-16-2 with ReLU whose
two outputs are the mean and, through softplus, the scale, prior $N(0, 1)$ on every weight, number of members and of
kept draws. Each starts every chain at a member of a deep ensemble, and goes on by microcanonical Langevin Monte Carlo
with the same wanted variance of the energy error. bde makes 50,000 steps of warm-up and 1,000 that are draws, as in its
published figure; ours makes 45,000 of warm-up and ten a draw. The scores are

$$ \mathrm{LPPD} = \frac1N \sum_i \log \frac1S \sum_s N(y_i \mid \mu_{is}, \sigma_{is}^2), \qquad
   \mathrm{NLL} = -\frac1N \sum_i \log N(y_i \mid \mathrm{mean}, \mathrm{variance\ of\ the\ mixture}). $$
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environments

DATA = Path(os.environ.get("MANYMODES_DATA", environments.ROOT.parent / "shared" / "data"))
WIDTHS = (5, 16, 16, 16, 16, 2)
_LEARNING_RATE, _MOST_TIME = 1e-2, 0.5


def split() -> dict[str, np.ndarray]:
    """The data in two parts, standardised by the training rows."""
    from sklearn.model_selection import train_test_split

    with np.load(DATA / "uci_mile" / "airfoil.npz") as data:
        parts = train_test_split(data["X"], data["y"], test_size=0.2, random_state=0)
    x_train, x_test, y_train, y_test = (np.asarray(part, np.float64) for part in parts)
    x_mean, x_scale, y_mean, y_scale = x_train.mean(0), x_train.std(0), y_train.mean(), y_train.std()
    parts = {"x_train": (x_train - x_mean) / x_scale, "x_test": (x_test - x_mean) / x_scale}
    parts |= {"y_train": (y_train - y_mean) / y_scale, "y_test": (y_test - y_mean) / y_scale}
    return {name: part.astype(np.float32) for name, part in parts.items()}


def scores(predictions: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """LPPD of the mixture, the negative log density of the one normal with its moments, and the RMSE of its mean.

    Args:
        predictions: means and scales (2, member, draw, row).
        y: targets.
    """
    mean, scale = predictions.reshape(2, -1, predictions.shape[-1]).astype(np.float64)
    logdensities = -0.5 * np.log(2 * np.pi) - np.log(scale) - 0.5 * ((y - mean) / scale) ** 2
    lppd = (np.logaddexp.reduce(logdensities, axis=0) - np.log(len(mean))).mean()
    centre, variance = mean.mean(0), (scale**2).mean(0) + mean.var(0)
    nll = 0.5 * (np.log(2 * np.pi * variance) + (y - centre) ** 2 / variance).mean()
    return {"lppd": float(lppd), "nll": float(nll), "rmse": float(np.sqrt(((y - centre) ** 2).mean()))}


def ours(data: dict[str, np.ndarray], arguments: argparse.Namespace) -> tuple[dict[str, float], np.ndarray]:
    """A deep ensemble, then MCLMC from each of its members: seconds, and predictions (2, member, draw, row)."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from benchmarks.peers.exchange import Clock
    from bnn_models import BNN, Posterior, networks, priors
    from inference import MCLMC, sample

    def heteroscedastic(output: Any, y: Any) -> None:
        numpyro.sample("y", dist.Normal(output[:, 0], jax.nn.softplus(output[:, 1]) + 1e-6), obs=y)

    clock = Clock()
    model = BNN(networks.mlp(WIDTHS, activation="relu"), priors.normal(scale=1.0), heteroscedastic)
    posterior = Posterior(model, jnp.asarray(data["x_train"]), jnp.asarray(data["y_train"]))
    key_ensemble, key_chains = jax.random.split(jax.random.key(arguments.seed))
    draws = sample(
        posterior,
        MCLMC(
            num_warmup=arguments.our_warmup,
            num_integration_steps=arguments.steps,
            desired_energy_variance=arguments.energy_variance,
        ),
        num_chains=arguments.members,
        num_draws=arguments.draws,
        rng_key=key_chains,
        initial=deep_ensemble(posterior, key_ensemble, arguments.members, arguments.our_epochs),
        probes=jnp.asarray(data["x_test"]),
        progress=False,
    )
    assert draws.function is not None
    mean, raw = np.moveaxis(np.asarray(draws.function), -1, 0)
    cpu, wall = clock()
    return {"cpu": cpu, "wall": wall}, np.stack([mean, np.logaddexp(0.0, raw) + 1e-6])


def deep_ensemble(posterior: Any, rng_key: Any, num_members: int, num_epochs: int) -> dict[str, Any]:
    """Members trained by Adam on the log posterior, each from weights that keep the scale of its inputs.

    Args:
        posterior: of a network.
        rng_key: of the first weights.
        num_members: how many.
        num_epochs: steps, each on all data.

    Returns:
        Positions with a leading member axis.
    """
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, num_epochs))

    def train(posterior: Any, rng_key: Any) -> Any:
        keys = jax.random.split(rng_key, len(posterior.sites))
        position = {
            site: jax.random.normal(key, shape) * (shape[0] ** -0.5 if len(shape) == 2 else 0.0)
            for key, (site, shape) in zip(keys, posterior.sites.items(), strict=True)
        }

        def step(carry: Any, _: None) -> tuple[Any, None]:
            position, state = carry
            gradient = jax.grad(lambda q: -posterior.logdensity(q) / num_rows)(position)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(position, updates), state), None

        return jax.lax.scan(step, (position, optimizer.init(position)), None, length=num_epochs)[0][0]

    num_rows = len(posterior.observed_data()["y"])
    trained = jax.jit(train)
    members = [trained(posterior, key) for key in jax.random.split(rng_key, num_members)]
    return jax.tree.map(lambda *one: jnp.stack(one), *members)


def bde(file: Path, folder: Path, arguments: argparse.Namespace) -> tuple[dict[str, float], np.ndarray]:
    """The peer, in its own environment."""
    predictions = folder / "predictions.npy"
    sizes = {"members": arguments.members, "epochs": arguments.epochs, "warmup": arguments.warmup}
    sizes |= {"draws": arguments.draws, "seed": arguments.seed}
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    command = [str(environments.python("bde")), "-m", "benchmarks.peers.bde", str(file), *options]
    seconds = environments.run([*command, "--predictions", str(predictions)])
    return seconds, np.load(predictions)


def main() -> None:
    """Runs both and says whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two members and few steps, to see that everything runs")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--draws", type=int, default=1000, help="kept draws a member")
    parser.add_argument("--warmup", type=int, default=50_000, help="bde's steps of warm-up")
    parser.add_argument("--epochs", type=int, default=1000, help="most epochs of bde's deep ensemble")
    parser.add_argument("--our-epochs", type=int, default=3000, help="epochs of ours")
    parser.add_argument("--our-warmup", type=int, default=4500, help="our draws of warm-up")
    parser.add_argument("--steps", type=int, default=10, help="our integrator steps a draw, in warm-up too")
    parser.add_argument("--energy-variance", type=float, default=0.1, help="wanted by both at the end of warm-up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["bde", "ours"], help="one of the two")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.members, arguments.draws, arguments.warmup = 2, 50, 200
        arguments.epochs, arguments.our_epochs, arguments.our_warmup = 200, 200, 50
    data, found = split(), {}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "airfoil.npz"
        np.savez(file, allow_pickle=False, **data)
        for system, run in (("bde", lambda: bde(file, Path(name), arguments)), ("ours", lambda: ours(data, arguments))):
            if arguments.only in (None, system):
                seconds, predictions = run()
                found[system] = seconds | scores(predictions, data["y_test"])
                said = ", ".join(f"{key} {value:.4g}" for key, value in found[system].items())
                print(f"{system}: {said}", flush=True)
    if len(found) == 2:
        better, share = found["ours"]["lppd"] - found["bde"]["lppd"], found["ours"]["wall"] / found["bde"]["wall"]
        holds = better >= 0 and share <= _MOST_TIME
        print(f"LPPD higher by {better:.3f}, in {share:.2f} of the wall time: {'holds' if holds else 'DOES NOT HOLD'}")


if __name__ == "__main__":
    main()
