"""The scoreboard judges fairly: problems mean the same to all, wrong densities and missed bars are seen."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    """A module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: import_module(f"benchmarks.{name}")


@pytest.fixture
def exchanged(benchmark):
    """A problem as the peers have it, and this library's log densities; made once."""

    def made(name):
        if name not in _EXCHANGED:
            _EXCHANGED[name] = benchmark("problems").PROBLEMS[name].exchanged()
        return _EXCHANGED[name]

    return made


_EXCHANGED = {}


@pytest.mark.parametrize("name", ["P1", "P2", "P3"])
def test_densities_by_hand_are_those_of_the_library_and_a_wrong_one_is_seen(benchmark, exchanged, name):
    problems, densities = benchmark("problems"), benchmark("peers.jax_densities")
    seen, ours = exchanged(name)
    with jax.enable_x64(True):
        x, y = jnp.asarray(seen.x), jnp.asarray(seen.y)
        both = [densities.density(seen, layout) for layout in ("row-major", "feature-major")]
        theirs = np.stack([_at_all(density, seen.positions, x, y) for density in both])
        others = _at_all(both[0], seen.positions, x[:-1], y[:-1])
    assert problems.relative_difference(ours, theirs) < 1e-12
    assert problems.relative_difference(ours, others) > 1e-6  # one row of data is missing


def _at_all(density, positions, x, y):
    compiled = jax.jit(density)
    return np.array([compiled({k: v[row] for k, v in positions.items()}, x, y) for row in range(20)])


@pytest.mark.parametrize(("name", "num_parameters"), [("P1", 194), ("P2", 466), ("P3", 760)])
def test_function_of_a_peers_draws_is_the_librarys(benchmark, exchanged, tmp_path, name, num_parameters):
    exchanged(name)[0].write(tmp_path / "problem.npz")
    seen = benchmark("peers.exchange").read(tmp_path / "problem.npz")
    assert sum(positions[0].size for positions in seen.positions.values()) == num_parameters
    assert seen.probes.shape[0] == 50
    peers = seen.function({name: values.reshape(4, 5, *values.shape[1:]) for name, values in seen.positions.items()})
    problem = benchmark("problems").PROBLEMS[name]
    network = problem.posterior().model.network
    for row in range(20):
        weights = {}
        for i, _, _, factor in seen.layers:
            layer = "head" if i == len(seen.layers) - 1 else f"hidden_{i}"
            weights |= {f"{layer}.kernel": factor * seen.positions[f"w{i}"][row]}
            weights |= {f"{layer}.bias": seen.positions[f"b{i}"][row]}
        ours = np.asarray(network.apply({k: jnp.asarray(v, jnp.float32) for k, v in weights.items()}, problem.probes))
        ours = ours[:, 0] if name != "P3" else ours - ours.mean(-1, keepdims=True)
        np.testing.assert_allclose(peers[row // 5, row % 5], ours, atol=1e-4 * np.abs(ours).max())


def test_held_out_rows_are_the_first_of_the_permutation_and_standardised_by_the_others(exchanged):
    from sklearn.datasets import load_digits

    table: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(table.data))
    test, train = order[:50], order[50:]
    scale = table.data[train].std(0)
    scale[scale == 0] = 1
    seen, _ = exchanged("P3")
    np.testing.assert_allclose(seen.x, (table.data[train] - table.data[train].mean(0)) / scale, atol=1e-12)
    np.testing.assert_allclose(seen.probes, (table.data[test] - table.data[train].mean(0)) / scale, atol=1e-12)
    np.testing.assert_array_equal(seen.y, table.target[train])


def record(system, seed, ess, seconds, **more):
    """A measurement of 1,000 gradients."""
    sizes = {"problem": "P1", "system": system, "seed": seed, "rates": False, "draws": 500, "warmup": 500}
    clocks = {f"{phase}_{clock}": seconds for phase in ("sampling", "all") for clock in ("cpu", "wall")}
    return sizes | clocks | {"gradients": 1000.0, "ess": ess, "rhat": 1.01} | more


def test_ratios_are_medians_within_rounds_and_bars_can_be_missed(benchmark, capsys):
    comparison, report = benchmark("comparison"), benchmark("report")
    ours, theirs = comparison.OUR_NUTS, comparison.NUMPYRO
    records = [record(ours, seed, 400.0, 1.0 + seed) for seed in range(3)]
    records += [record(theirs, seed, ess, 1.0 + seed) for seed, ess in enumerate((100.0, 200.0, 400.0))]
    table = comparison.rounds(records, "P1")
    bars = [bar for bar in comparison.BARS if (bar.problem, bar.system, bar.other) == ("P1", ours, theirs)]
    assert [comparison.ratios(table, bar) for bar in bars] == [[4.0, 2.0, 1.0]]
    report.show("a machine", records, ["P1"], markdown=True)
    said = capsys.readouterr().out
    assert "= 2.00 (1.00 to 4.00), at least 3: DOES NOT HOLD" in said
    assert "PyStan NUTS, min fESS/CPU-s: not measured" in said
    report.show("a machine", [record(ours, 0, 400.0, 1.0), record(theirs, 0, 100.0, 1.0)], ["P1"], markdown=True)
    assert "= 4.00 (4.00 to 4.00), at least 3: holds" in capsys.readouterr().out


def test_short_quiet_runs_give_long_ones_their_seconds(benchmark):
    comparison = benchmark("comparison")
    busy = record("nutpie", 0, 100.0, 10.0)
    quiet = {"problem": "P1", "system": "nutpie", "seed": 0, "rates": True, "draws": 30, "warmup": 30}
    quiet |= {"gradients": 50.0, "sampling_cpu": 0.1, "sampling_wall": 0.05, "ess": 3.0, "rhat": 1.5}
    found = comparison.rounds([busy, quiet], "P1")["nutpie"][0]
    assert found["gradients_cpu"] == pytest.approx(500.0)
    assert found["ess_cpu"] == pytest.approx(50.0)
    assert found["ess_wall"] == pytest.approx(100.0)
    assert found["rhat"] == 1.01


def test_scores_of_the_airfoil_comparison_have_their_closed_forms(benchmark):
    scores = benchmark("bde_airfoil").scores
    y = np.array([0.5, -1.0])
    same = scores(np.stack([np.zeros((2, 3, 2)), np.ones((2, 3, 2))]), y)
    expected = np.mean(0.5 * np.log(2 * np.pi) + 0.5 * y**2)
    assert same["lppd"] == pytest.approx(-expected)
    assert same["nll"] == pytest.approx(expected)
    assert same["rmse"] == pytest.approx(np.sqrt(np.mean(y**2)))
    # Two far modes: the mixture knows better than the one normal with its moments.
    modes = scores(
        np.stack([np.array([-3.0, 3.0]).reshape(2, 1, 1) * np.ones((2, 1, 1)), np.ones((2, 1, 1))]), y[:1] + 2.5
    )
    assert modes["lppd"] == pytest.approx(np.log(0.5 / np.sqrt(2 * np.pi) * (1 + np.exp(-18.0))))
    assert modes["nll"] == pytest.approx(0.5 * (np.log(2 * np.pi * 10) + 0.9))


def test_pins_are_names_and_versions_and_nothing_else(benchmark):
    environments = benchmark("environments")
    for peer in environments.PEERS:
        lines = environments.pinned(peer).read_text().splitlines()
        assert lines
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
