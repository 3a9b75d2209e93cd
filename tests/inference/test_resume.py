"""A run that dies anywhere goes on to the bits that it would have had, and to no others."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from crashing import LONGEST_BLOCK, POINTS, SETTINGS, TARGET, Died, begin_or_resume, dying_write
from kernels import KERNELS
from ports import free_port
from targets import Gaussian

from inference import HMC, NUTS, Keep, programs, read_run, resume, sample, store
from inference.checkpoint import Checkpoint, read_checkpoint

STUDIED = [name for name in ("nuts", "mclmc", "sghmc", "tempering") if name in KERNELS]
SCRIPT = Path(__file__).with_name("crashing.py")


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(programs, "_LONGEST_BLOCK", LONGEST_BLOCK)


@functools.cache
def uninterrupted(kernel):
    return sample(TARGET, KERNELS[kernel], **SETTINGS)


def assert_same(draws, expected):
    assert not draws.interrupted
    for group in ("weights", "sample_stats", "invariants", "pointwise"):
        jax.tree.map(np.testing.assert_array_equal, getattr(draws, group), getattr(expected, group))


def die(folder, kernel, point, when, monkeypatch):
    """Runs until the point, in this process; says how many blocks were begun."""
    died = []

    def raise_once():
        died.append(True)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_file", dying_write(point, when, raise_once))
        with pytest.raises(Died):
            begin_or_resume(folder, kernel)
    assert died


@pytest.mark.parametrize("when", [4, 20], ids=["inside warm-up", "after it"])
@pytest.mark.parametrize(
    ("kernel", "point"),
    [
        pytest.param(kernel, point, marks=[pytest.mark.slow] * (kernel != STUDIED[0] and point != POINTS[2]))
        for kernel in STUDIED
        for point in POINTS
    ],
)
def test_resumed_draws_are_the_uninterrupted_ones(kernel, point, when, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    die(folder, kernel, point, when, monkeypatch)
    blocks = sorted(folder.glob("group-*/block-*.npz"))
    before = {file: file.stat().st_mtime_ns for file in blocks if file.with_name(_state_after(file)).exists()}
    assert before
    draws = begin_or_resume(folder, kernel)
    assert_same(draws, uninterrupted(kernel))
    assert_same(read_run(folder)[0], uninterrupted(kernel))
    # What was committed is not made again.
    assert all(file.stat().st_mtime_ns == made for file, made in before.items())


def _state_after(block):
    """Of a block that is certainly committed: the newest states alone are kept."""
    return max((f.name for f in block.parent.glob("state-*.npz") if f.name[5:] >= block.name[5:]), default="none")


@pytest.mark.parametrize("kernel", STUDIED[:1])
def test_one_ulp_of_the_state_is_noticed(kernel, tmp_path, monkeypatch):
    """A changed state is refused; one that fits its digest but is one ulp off gives other draws."""
    folder = tmp_path / "run"
    die(folder, kernel, "after the state", 8, monkeypatch)
    file = max(folder.glob("group-*/state-*.npz"))
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = ".position['x']"
    nudged = arrays | {name: np.nextafter(arrays[name], np.float32(np.inf))}
    np.savez(file, **nudged)
    with pytest.raises(ValueError, match="was changed since it was written"):
        begin_or_resume(folder, kernel)

    np.savez(file, **arrays)
    checkpoint = read_checkpoint(file, start_state(kernel))
    position = {**checkpoint.state.position, "x": np.nextafter(checkpoint.state.position["x"], np.float32(np.inf))}
    store.write_arrays(file, Checkpoint(checkpoint.steps, checkpoint.state._replace(position=position)).to_arrays())
    draws = begin_or_resume(folder, kernel)
    pairs = zip(draws.weights["x"], uninterrupted(kernel).weights["x"], strict=True)
    assert [np.array_equal(*pair) for pair in pairs] == [file.parent.name != f"group-{chain:04d}" for chain in (0, 1)]


def start_state(kernel):
    """A State of one chain, leading axis chain."""
    position = TARGET.initial(jax.random.key(0), 1)
    state = KERNELS[kernel].init(jax.random.key(0), jax.tree.map(lambda x: x[0], position), TARGET)
    return jax.tree.map(lambda x: np.asarray(x)[None], state)


def test_finished_run_is_continued(tmp_path):
    folder = tmp_path / "run"
    begin_or_resume(folder, "nuts")
    draws = resume(folder, TARGET, num_draws=40, progress=False)
    assert_same(draws, sample(TARGET, KERNELS["nuts"], **SETTINGS | {"num_draws": 40}))
    assert draws.seconds["sampling"] > 0
    assert_same(resume(folder, TARGET, progress=False), draws)
    with pytest.raises(ValueError, match="num_draws must be at least the 40 draws .* got 25"):
        resume(folder, TARGET, num_draws=25)


def test_thinned_run_goes_on_with_its_moments(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    keep = Keep(thin=4, pointwise=False)
    whole = sample(TARGET, KERNELS["nuts"], **SETTINGS, keep=keep)
    every = uninterrupted("nuts")
    np.testing.assert_array_equal(whole.weights["x"], every.weights["x"][:, ::4])
    np.testing.assert_array_equal(whole.sample_stats["lp"], every.sample_stats["lp"])
    np.testing.assert_allclose(whole.moments["x"]["mean"], every.weights["x"].mean((0, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.moments["x"]["sd"], every.weights["x"].reshape(-1, 3).std(0, ddof=1), rtol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_file", dying_write("half a state", 20, lambda: (_ for _ in ()).throw(Died())))
        with pytest.raises(Died):
            sample(TARGET, KERNELS["nuts"], **SETTINGS, keep=keep, run=folder)
    for draws in (resume(folder, TARGET, progress=False), read_run(folder)[0]):
        np.testing.assert_array_equal(draws.weights["x"], whole.weights["x"])
        jax.tree.map(np.testing.assert_array_equal, draws.moments, whole.moments)
        assert draws.pointwise is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    sample(TARGET, HMC(num_warmup=5, num_integration_steps=3), **SETTINGS | {"num_draws": 5}, run=folder)
    return folder


def test_what_does_not_fit_is_refused_by_name(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"begun with HMC\(.*got HMC\(.*num_integration_steps=4"):
        resume(folder, TARGET, kernel=HMC(num_warmup=5, num_integration_steps=4))
    with pytest.raises(ValueError, match="begun with HMC.* got NUTS"):
        resume(folder, TARGET, kernel=NUTS())
    other_data = Gaussian(TARGET.mean + 1, TARGET.precision)
    with pytest.raises(ValueError, match=r"made with another data \(at .mean\)"):
        resume(folder, other_data)
    with pytest.raises(ValueError, match="made with another model"):
        resume(folder, Gaussian(TARGET.mean, TARGET.precision, gradient=False))
    manifest = json.loads((folder / "manifest.json").read_text())
    changed = manifest | {"versions": manifest["versions"] | {"blackjax": "0.9"}}
    (folder / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"other versions \(blackjax 0.9 then, "):
        resume(folder, TARGET)
    changed = manifest | {"executor": "mesh", "mesh": [64, 1], "groups": [[0, 1]]}
    (folder / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="64"):
        resume(folder, TARGET)
    assert len(list(folder.glob("**/*.tmp"))) == 0


def test_missing_block_and_torn_state_are_refused(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    state = max((folder / "group-0001").glob("state-*.npz"))
    whole = state.read_bytes()
    state.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="cannot be read .* remove it to go on from the state before it"):
        resume(folder, TARGET, progress=False)
    state.write_bytes(whole)
    (folder / "group-0000" / "block-000000.npz").unlink()
    with pytest.raises(ValueError, match=r"block-000000.npz' is missing"):
        resume(folder, TARGET, progress=False)


def test_another_machine_is_warned_of(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["platform"]["machine"] = "riscv64"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="riscv64.*not the same bits"):
        resume(folder, TARGET, progress=False)


def test_a_file_in_the_folder_asks_to_stop(tmp_path, monkeypatch):
    """Made by whoever wants it; it is gone when the run has stopped, and an old one keeps nobody from going on."""
    folder = tmp_path / "run"
    write = store.write_file

    def write_and_ask(file, content):
        write(file, content)
        if file.name.startswith("block-") and has_draws(folder):
            (folder / "stop").touch()

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_file", write_and_ask)
        draws = begin_or_resume(folder, "nuts")
    assert draws.interrupted
    assert 0 < draws.num_draws < SETTINGS["num_draws"]
    assert json.loads((folder / "manifest.json").read_text())["status"] == "interrupted"
    assert not (folder / "stop").exists()
    (folder / "stop").touch()
    assert_same(begin_or_resume(folder, "nuts"), uninterrupted("nuts"))


def has_draws(folder):
    """Whether each of two chains has a block of draws: one may be many blocks ahead of the other."""
    blocks = (folder.glob(f"group-{number:04d}/block-*.npz") for number in (0, 1))
    return all(any("weights/x" in np.load(block) for block in of_chain) for of_chain in blocks)


def test_full_disk_leaves_a_readable_run(tmp_path, monkeypatch):
    """What was committed before is read, and the run goes on when there is room."""
    folder = tmp_path / "run"
    write = store.write_file

    def full(file, content):
        if file.name.startswith("block-") and has_draws(folder):
            raise OSError(28, "No space left on device", str(file))
        write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_file", full)
        with pytest.raises(
            OSError, match=r"No space left on device; what was committed stays readable.*--resume"
        ) as told:
            begin_or_resume(folder, "nuts")
    assert told.value.filename.endswith(".npz")
    assert read_run(folder)[0].interrupted
    assert_same(begin_or_resume(folder, "nuts"), uninterrupted("nuts"))


def spawn(folder, kernel, point="none", when=0):
    return subprocess.Popen([sys.executable, SCRIPT, folder, kernel, point, str(when)], stdout=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [STUDIED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in STUDIED[1:])])
def test_kills_at_each_point_in_a_row(kernel, tmp_path):
    """One run, killed inside warm-up and after it at every point in turn, and begun again each time."""
    folder = tmp_path / "run"
    for point, when in zip(POINTS[::2] if kernel == STUDIED[0] else POINTS, (3, 5, 7, 2, 2), strict=False):
        assert spawn(folder, kernel, point, when).wait(300) == -signal.SIGKILL
    assert spawn(folder, kernel).wait(300) == 0
    assert_same(read_run(folder)[0], uninterrupted(kernel))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", STUDIED)
def test_kills_at_random_moments(kernel, tmp_path):
    """Twenty of them, wherever the run is at the time, its first moments and compilation included."""
    folder, rng = tmp_path / "run", random.Random(0)
    for _ in range(20):
        process = spawn(folder, kernel)
        begin = time.monotonic()
        delay = rng.uniform(0.5, 12.0)
        while process.poll() is None and time.monotonic() < begin + delay:
            time.sleep(0.01)
        process.kill()
        process.wait()
        if folder.exists():
            json.loads((folder / "manifest.json").read_text())
    assert spawn(folder, kernel).wait(300) == 0
    assert_same(read_run(folder)[0], uninterrupted(kernel))


def spawn_two(folder, kernel, points=(("none", 0), ("none", 0))):
    """Two processes; each may die at a point of its own. Their statuses when both have ended."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, kernel, point, str(when)],
            env=os.environ | {"JOIN": f"{number} {port}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number, (point, when) in enumerate(points)
    ]
    try:
        return [process.wait(300) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("kernel", STUDIED)
def test_two_processes_go_on_together(kernel, tmp_path):
    """One of them is killed inside warm-up, then the other after it; the draws are those of two that were not."""
    folder = tmp_path / "run"
    for points in ((("none", 0), ("between draws and state", 4)), (("half a block", 6), ("none", 0))):
        statuses = spawn_two(folder, kernel, points)
        assert -signal.SIGKILL in statuses
        assert 0 not in statuses
    assert spawn_two(folder, kernel) == [0, 0]
    assert spawn_two(tmp_path / "whole", kernel) == [0, 0]
    assert_same(read_run(folder)[0], read_run(tmp_path / "whole")[0])


def test_moments_of_a_run_killed_before_its_first_block(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    die(folder, "nuts", "half a block", 1, monkeypatch)
    assert os.listdir(folder / "group-0000") or os.listdir(folder / "group-0001")
    with pytest.raises(ValueError, match="no committed draw"):
        read_run(folder)
    assert_same(begin_or_resume(folder, "nuts"), uninterrupted("nuts"))
