"""Two processes that sample together: the draws of one, each chain written by its owner, and a common end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ports import free_port

from inference import read_run
from manymodes import distributed

SCRIPT = Path(__file__).parent / "distributed_process.py"


def run_pair(folder, part, survives=60):
    """Both processes, ended: their statuses and words, and the seconds by which the first outlived the second."""
    port = str(free_port())
    commands = [[sys.executable, str(SCRIPT), str(number), port, str(folder), part] for number in range(2)]
    processes = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    try:
        second = processes[1].communicate(timeout=300)
        died = time.monotonic()
        first = processes[0].communicate(timeout=survives)
    finally:
        for process in processes:
            process.kill()
    return {
        "status": [process.returncode for process in processes],
        "out": [first[0], second[0]],
        "err": [first[1], second[1]],
        "seconds": time.monotonic() - died,
        "folder": folder,
    }


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    return run_pair(tmp_path_factory.mktemp("runs"), "short_and_killed")


def test_both_finish(ended):
    """And nothing but what Python prints is on standard output."""
    assert ended["out"] == ["finished\n", "finished\n"], ended["err"]


@pytest.mark.parametrize(("name", "groups"), [("shards", 2), ("threads", 8)])
def test_draws_are_those_of_one_process_and_each_chain_is_written_once(ended, name, groups):
    draws, manifest = read_run(ended["folder"] / name)
    expected = np.load(ended["folder"] / "reference.npy")
    found = np.concatenate([x.reshape(8, 5, -1) for x in draws.weights.values()], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(manifest["groups"]) == len(list((ended["folder"] / name).glob("group-*"))) == groups
    assert manifest["status"] == "complete"


def test_a_killed_process_ends_the_other_within_seconds(ended):
    assert ended["status"][1] == -signal.SIGKILL
    assert ended["status"][0] not in (0, None)
    assert ended["seconds"] < 30
    assert "another process of this job has ended" in ended["err"][0] or "another task died" in ended["err"][0]


def test_what_was_committed_of_a_killed_job_is_readable(ended):
    draws, manifest = read_run(ended["folder"] / "killed")
    assert manifest["status"] == "running"
    assert draws.interrupted
    assert draws.weights["head.bias"].shape[0] == 8
    assert draws.num_draws > 5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("node1:1234", 2, None), "no --process-id"),
        ((None, 2, 0), "no --coordinator"),
        (("node1", 2, 0), "must be HOST:PORT"),
        (("node1:1234", 2, 2), "between 0 and 1, got 2"),
    ],
)
def test_processes_that_cannot_find_each_other_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        distributed.start(*arguments)


@pytest.mark.slow
def test_a_killed_job_resumes_to_the_same_bits(tmp_path):
    killed = run_pair(tmp_path, "killed")
    assert killed["status"][1] == -signal.SIGKILL
    resumed = run_pair(tmp_path, "resumed")
    assert resumed["status"] == [0, 0], resumed["err"]
    (draws, _), (whole, _) = (read_run(tmp_path / name) for name in ("killed", "whole"))
    for site, expected in whole.weights.items():
        np.testing.assert_array_equal(draws.weights[site], expected)
