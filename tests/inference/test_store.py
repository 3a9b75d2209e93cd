"""A run on disk: read back as it was made, whatever stopped it, and nothing but a run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from targets import Gaussian

from inference import NUTS, programs, read_data, read_run, runner, sample

KERNEL = NUTS(num_warmup=20, max_tree_depth=4)
TARGET = Gaussian.example(3)
SETTINGS = {"num_chains": 3, "num_draws": 25, "rng_key": jax.random.key(5)}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_SECONDS_A_BLOCK", 0.0)  # blocks of one step
    monkeypatch.setattr(programs, "_LONGEST_BLOCK", 10)
    folder = tmp_path / "parent" / "run"
    probes = np.array([1.0, 2.0])
    draws = sample(TARGET, KERNEL, **SETTINGS, probes=probes, run=folder, attachments={"note.json": '{"a": 1}'})
    return folder, draws


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_run_is_read_back_as_it_was_made(stored):
    folder, made = stored
    read, manifest = read_run(folder)
    for name in ("weights", "sample_stats", "invariants", "pointwise", "function", "probes"):
        same(getattr(read, name), getattr(made, name))
    assert (read.posterior, read.kernel, read.interrupted) == (None, None, False)
    assert read.seconds == made.seconds
    assert (read.num_chains, read.num_draws) == (3, 25)
    data = read_data(folder)
    np.testing.assert_array_equal(data["observed_data"]["y"], TARGET.mean)
    np.testing.assert_array_equal(data["constant_data"]["precision"], TARGET.precision)
    assert (folder / "note.json").read_text() == '{"a": 1}'
    assert manifest["status"] == "complete"


def test_manifest_says_what_fixed_the_draws(stored):
    manifest = json.loads((stored[0] / "manifest.json").read_text())
    assert manifest["kernel"]["name"] == "NUTS"
    assert NUTS(**manifest["kernel"]["settings"]) == KERNEL
    key = jax.random.wrap_key_data(np.asarray(manifest["rng_key"]["data"], np.uint32))
    assert key == SETTINGS["rng_key"]
    assert manifest["sites"] == {"x": [3], "scale": []}
    assert (manifest["num_chains"], manifest["num_warmup"], manifest["num_draws"]) == (3, 20, 25)
    assert manifest["groups"] == [[0], [1], [2]]
    assert set(manifest["versions"]) >= {"jax", "numpyro", "blackjax", "manymodes", "python"}
    assert manifest["dtype"] == "float32"
    assert len(manifest["data_sha256"]) == 2


def test_last_state_continues_the_chain(stored):
    """The stored State is whole: the step after it is the step that a longer run makes."""
    folder, _ = stored
    longer = sample(TARGET, KERNEL, **SETTINGS | {"num_draws": 26})
    last = sorted((folder / "group-0001").glob("state-*.npz"))[-1]
    with np.load(last, allow_pickle=False) as arrays:
        position = {"x": arrays[".position['x']"][0], "scale": arrays[".position['scale']"][0]}
        reference = KERNEL.init(jax.random.key(0), jax.tree.map(jax.numpy.asarray, position), TARGET)
        leaves, structure = jax.tree.flatten_with_path(reference)
        state = jax.tree.unflatten(
            structure, [jax.numpy.asarray(arrays[jax.tree_util.keystr(p)][0]) for p, _ in leaves]
        )
    key = jax.random.fold_in(jax.random.fold_in(jax.random.split(SETTINGS["rng_key"])[1], 1), 45)
    state, _ = jax.jit(KERNEL.step)(key, state, TARGET, 45)
    np.testing.assert_allclose(state.position["x"], longer.weights["x"][1, 25], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crash", ["between draws and state", "inside the state", "inside the draws"])
def test_uncommitted_block_is_ignored(stored, crash):
    folder, made = stored
    group = folder / "group-0002"
    last = sorted(group.glob("state-*.npz"))[-1].name
    draws = group / last.replace("state", "block")
    if crash == "inside the state":
        (group / f"{last}.tmp").write_bytes((group / last).read_bytes()[:100])
    if crash == "inside the draws":
        (group / f"{draws.name}.tmp").write_bytes(draws.read_bytes()[:100])
        draws.unlink()
    (group / last).unlink()
    read, _ = read_run(folder)
    assert read.interrupted
    assert read.num_draws == made.num_draws - 1
    same(read.weights, {site: x[:, :24] for site, x in made.weights.items()})


def test_a_gap_ends_the_run(stored):
    folder, _ = stored
    blocks = sorted((folder / "group-0000").glob("block-*.npz"))
    blocks[-5].unlink()
    assert read_run(folder)[0].num_draws == 20


def test_the_last_two_states_are_kept(stored):
    """Processes that advance together are at most one block apart."""
    for group in range(3):
        last = len(list((stored[0] / f"group-{group:04d}").glob("block-*.npz"))) - 1
        states = sorted(file.name for file in (stored[0] / f"group-{group:04d}").glob("state-*.npz"))
        assert states == [f"state-{last - 1:06d}.npz", f"state-{last:06d}.npz"]


def test_run_killed_in_warmup_has_no_draws(stored):
    folder, _ = stored
    one, other = sorted((folder / "group-0001").glob("state-*.npz"))
    one.unlink()
    other.rename(other.with_name("state-000002.npz"))
    with pytest.raises(ValueError, match="no committed draw for each of its chains"):
        read_run(folder)


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"format": "other"}'])
def test_folder_that_is_no_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    for read in (read_run, read_data):
        with pytest.raises(ValueError, match="is not a run folder"):
            read(tmp_path)


def test_newer_format_is_refused(stored):
    file = stored[0] / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    with pytest.raises(ValueError, match="has format 99.* update manymodes"):
        read_run(stored[0])


def test_refused_run_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="num_draws"):
        sample(TARGET, KERNEL, **SETTINGS | {"num_draws": 0}, run=tmp_path / "run")
    bad = {"x": np.full((3, 3), np.nan), "scale": np.zeros(3)}
    with pytest.raises(ValueError, match="not finite"):
        sample(TARGET, KERNEL, **SETTINGS, run=tmp_path / "run", initial=bad)
    assert list(tmp_path.iterdir()) == []


ENDLESS = """
import sys
sys.path.insert(0, {here!r})
import jax
from targets import Gaussian
from inference import HMC, runner, sample
runner._SECONDS_A_BLOCK = 0.1
draws = sample(Gaussian.example(3), HMC(num_warmup=10, num_integration_steps=200), num_chains=3, num_draws=10**7,
               rng_key=jax.random.key(0), run=sys.argv[1])
print(draws.num_draws, draws.interrupted)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_stopped_run_is_readable(tmp_path, how):
    folder = tmp_path / "run"
    program = ENDLESS.format(here=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not all((folder / f"group-{g:04d}" / "block-000004.npz").exists() for g in range(3)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, how)
    output, _ = process.communicate(timeout=300)
    read, manifest = read_run(folder)
    assert read.interrupted
    assert read.num_draws > 0
    assert manifest["status"] == ("interrupted" if how == signal.SIGINT else "running")
    if how == signal.SIGINT:
        assert output.split() == [str(read.num_draws), "True"]
