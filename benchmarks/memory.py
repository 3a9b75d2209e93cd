"""Large posteriors in little memory: `python -m benchmarks.memory [--quick]`.

4 chains x 10,000 draws of a network with 100,000 weights, which would be 16 GB: the largest resident size of the
process must stay below 2 GB. The run is written to disk, as a user would do it; what is thinned is the library's own
choice. The posterior is not sampled well, and need not be: only its size counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import environments
from benchmarks.peers.exchange import peak_memory_mib

NUM_CHAINS, CAP_GIB = 4, 2.0


def measure(num_draws: int, hidden: int) -> dict[str, float]:
    """The run, and the largest resident size of the process from its start."""
    import jax
    import jax.numpy as jnp

    from bnn_models import BNN, Posterior, likelihoods, networks, priors
    from inference import HMC, sample

    key_x, key_y = jax.random.split(jax.random.key(0))
    x, y = jax.random.normal(key_x, (50, 10)), jax.random.normal(key_y, (50,))
    network = networks.mlp([10, hidden, hidden, 1])
    posterior = Posterior(BNN(network, priors.fan_in(priors.normal()), likelihoods.normal()), x, y)
    num_weights = sum(int(jnp.prod(jnp.asarray(shape))) for shape in posterior.sites.values())
    with tempfile.TemporaryDirectory(dir=_room()) as folder:
        run = Path(folder) / "run"
        draws = sample(
            posterior,
            HMC(num_warmup=0, num_integration_steps=1, jitter=0.0, step_size=1e-3),
            num_chains=NUM_CHAINS,
            num_draws=num_draws,
            rng_key=jax.random.key(1),
            run=run,
            progress=False,
        )
        stored = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    kept = next(iter(draws.weights.values())).shape[1]
    sizes = {"weights": num_weights, "kept": kept, "stored": stored / 1024**3, "peak": peak_memory_mib() / 1024}
    return sizes | draws.seconds


def _room() -> Path:
    """A folder on the checkout's disk: that of temporary files may be memory itself."""
    environments.FOLDER.mkdir(exist_ok=True)
    return environments.FOLDER


def main() -> None:
    """Measures in a process of its own and says whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 draws, to see that everything runs")
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--hidden", type=int, default=311, help="units of each hidden layer; 311 make 100,765 weights")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.draws = 200
    if arguments.measure:
        print(json.dumps(measure(arguments.draws, arguments.hidden)))
        return
    options = ["--draws", str(arguments.draws), "--hidden", str(arguments.hidden), "--measure"]
    command = [sys.executable, "-m", "benchmarks.memory", *options]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(ended.stdout.splitlines()[-1])
    print(
        f"{NUM_CHAINS} chains x {arguments.draws} draws of {found['weights']} weights in {found['sampling']:.0f} s: "
        f"kept the weights of {found['kept']} draws a chain, {found['stored']:.2f} GiB on disk"
    )
    verdict = "holds" if found["peak"] <= CAP_GIB else "DOES NOT HOLD"
    print(f"largest resident size {found['peak']:.2f} GiB, at most {CAP_GIB:g}: {verdict}")


if __name__ == "__main__":
    main()
