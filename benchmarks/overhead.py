"""What blocks, progress and storage cost: `python -m benchmarks.overhead [--quick]`.

At about 100 draws a second the whole of `sample(run=..., progress=True)`, with a terminal to draw its bar on, is
compared with the bare loop: one compiled scan of the same kernel's steps a chain, on as many threads as there are
cores, nothing observed, shown or written. Both make the same number of leapfrogs; they alternate, 20 seconds each.
"""

import argparse
import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NUM_CHAINS, DRAWS_PER_SECOND, MOST = 4, 100, 0.05


def measure(num_draws: int, num_rounds: int) -> dict[str, Any]:
    """Seconds of both, round by round."""
    import jax

    from benchmarks.problems import PROBLEMS
    from inference import HMC, sample

    problem = PROBLEMS["P3"]
    posterior = problem.posterior()
    starts = posterior.initial(jax.random.key(0), NUM_CHAINS)

    def kernel(num_steps: int) -> HMC:
        return HMC(num_warmup=0, num_integration_steps=num_steps, jitter=0.0, step_size=1e-3)

    def bare(num_steps: int, num_draws: int) -> float:
        transition = kernel(num_steps)

        def run(rng_key: Any, position: Any, posterior: Any) -> Any:
            def step(state: Any, t: Any) -> Any:
                state, info = transition.step(jax.random.fold_in(rng_key, t), state, posterior, t)
                return state, (state.position, info)

            start = transition.init(rng_key, position, posterior)
            return jax.lax.scan(step, start, jax.numpy.arange(num_draws))[1]

        keys = jax.random.split(jax.random.key(1), NUM_CHAINS)
        chains = [(keys[c], jax.tree.map(lambda x, c=c: x[c], starts), posterior) for c in range(NUM_CHAINS)]
        program = jax.jit(run).lower(*chains[0]).compile()
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda chain: jax.block_until_ready(program(*chain)), chains))
        return time.perf_counter() - begin

    rate = NUM_CHAINS * 20 / min(bare(32, 20) for _ in range(3))
    num_steps = max(1, round(32 * rate / DRAWS_PER_SECOND))
    result: dict[str, Any] = {"num_steps": num_steps, "bare": [], "library": []}
    for number in range(num_rounds):
        result["bare"].append(bare(num_steps, num_draws))
        with tempfile.TemporaryDirectory() as folder:
            draws = sample(
                posterior,
                kernel(num_steps),
                num_chains=NUM_CHAINS,
                num_draws=num_draws,
                rng_key=jax.random.key(number),
                probes=problem.probes,
                initial=starts,
                run=Path(folder) / "run",
            )
        result["library"].append(draws.seconds["sampling"])
    return result


def main() -> None:
    """Measures in a process whose standard error is a terminal, and says whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything runs")
    parser.add_argument("--draws", type=int, default=500, help="draws a chain")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.draws, arguments.rounds = 50, 1
    if arguments.measure:
        print(json.dumps(measure(arguments.draws, arguments.rounds)))
        return
    found = json.loads(_under_terminal(["--draws", str(arguments.draws), "--rounds", str(arguments.rounds)]))
    shares = [ours / bare - 1 for ours, bare in zip(found["library"], found["bare"], strict=True)]
    middle, rate = statistics.median(shares), NUM_CHAINS * arguments.draws / statistics.median(found["library"])
    print(
        f"{rate:.0f} draws/s of {found['num_steps']} leapfrogs, {NUM_CHAINS} chains x {arguments.draws} draws on disk"
    )
    print(
        f"overhead of blocks, progress and storage {middle:.1%} ({min(shares):.1%} to {max(shares):.1%}), at most "
        f"{MOST:.0%}: {'holds' if middle <= MOST else 'DOES NOT HOLD'}"
    )


def _under_terminal(options: list[str]) -> str:
    """What the measuring process prints; its bar goes to a terminal that nobody looks at."""
    parent, child = pty.openpty()
    drain = threading.Thread(target=_drain, args=(parent,), daemon=True)
    drain.start()
    command = [sys.executable, "-m", "benchmarks.overhead", "--measure", *options]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=child, text=True, check=True)
    os.close(child)
    return ended.stdout.splitlines()[-1]


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:  # the other end is closed
        pass


if __name__ == "__main__":
    main()
