"""`manymodes sample` as two processes, however they find each other; and the end of both by the Ctrl-C of one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ports import free_port

from inference import read_run
from manymodes.main import main

pytestmark = pytest.mark.slow

MODEL = """
import numpyro, numpyro.distributions as dist
def model(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)
"""
SAMPLE = [sys.executable, "-m", "manymodes", "sample"]
BEGIN = ["model.py", "--data", "xy.npz", "--kernel", "hmc", "--warmup", "20", "--seed", "1"]

Place = Callable[[int], tuple[list[str], dict[str, str]]]


def by_flags() -> Place:
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    return lambda number: ([*where, "--process-id", str(number)], {})


def by_slurm() -> Place:
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    return lambda number: (
        ["--distributed"],
        {**job, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
    )


def by_open_mpi() -> Place:
    job = {"OMPI_MCA_orte_hnp_uri": f"{os.getpid()}.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}
    return lambda number: (
        ["--distributed"],
        {**job, "OMPI_COMM_WORLD_RANK": str(number), "OMPI_COMM_WORLD_LOCAL_RANK": str(number)},
    )


def begin_two(place: Place, *arguments: str) -> list[subprocess.Popen[str]]:
    def begin(number: int) -> subprocess.Popen[str]:
        flags, variables = place(number)
        return subprocess.Popen(
            [*SAMPLE, *arguments, *flags],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return [begin(number) for number in range(2)]


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Status, standard output and standard error of each."""
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *words) for process, words in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    x = np.random.default_rng(0).normal(size=30)
    np.savez(folder / "xy.npz", x=x, y=0.7 * x + 0.5)
    (folder / "model.py").write_text(MODEL)
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    subprocess.run([*SAMPLE, *BEGIN, "--draws", "50", "-o", "alone"], cwd=folder, check=False, capture_output=True)
    return folder / "alone"


@pytest.mark.parametrize("find", [by_flags, by_slurm, by_open_mpi])
def test_draws_of_two_processes_are_those_of_one(find: Callable[[], Place], alone: Path) -> None:
    run = find.__name__
    first, second = end(begin_two(find(), *BEGIN, "--draws", "50", "-o", run))
    assert first[0] in (0, 1), first[2]
    assert "4 chains x 50 draws" in first[1]
    assert second[:2] == (0, ""), second[2]
    expected = read_run(alone)[0].weights["slope"]
    np.testing.assert_array_equal(read_run(run)[0].weights["slope"], expected)
    assert main(["summary", run]) == 0


def test_ctrl_c_in_one_process_stops_all_and_they_go_on() -> None:
    # Trajectories so long that a second has some hundred draws.
    processes = begin_two(by_flags(), *BEGIN, "--draws", "500000", "--steps", "2000", "-o", "stopped")
    patience = time.monotonic() + 200
    while len(list(Path("stopped").glob("group-*/block-000003.npz"))) < 4 and time.monotonic() < patience:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGINT)
    first, second = end(processes)
    assert (first[0], second[0]) == (1, 0), (first[2], second[2])
    assert "stopping when the running blocks have ended" in second[2]
    assert "manymodes sample --resume stopped goes on" in first[2]
    draws, manifest = read_run("stopped")
    assert manifest["status"] == "interrupted"
    wanted = draws.num_draws + 50  # as if so many had been wanted from the start
    Path("stopped/manifest.json").write_text(json.dumps(manifest | {"num_draws": wanted}))
    assert [status for status, *_ in end(begin_two(by_flags(), "--resume", "stopped"))] in ([0, 0], [1, 0])
    again = read_run("stopped")[0]
    assert (again.num_draws, again.interrupted) == (wanted, False)
    np.testing.assert_array_equal(again.weights["slope"][:, : draws.num_draws], draws.weights["slope"])
