"""The command line as a user meets it: runs that work, and one clear sentence for everything that cannot."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import arviz as az
import numpy as np
import pytest
from subsets import first

import inference
import symmetry
from manymodes import kernels
from manymodes.main import main

REGRESSION = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist
def model(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(slope * x, scale), obs=y)
"""
MIXTURE = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist
def model(y):
    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(2)))
    means = numpyro.sample("means", dist.Normal(0, 3).expand([2]).to_event(1))
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, 0.5)), obs=y)
"""
RAISES = """
def model(y):
    raise RuntimeError("the moon is full")
"""
NOTHING_OBSERVED = """
import numpyro, numpyro.distributions as dist
def model(y=None):
    numpyro.sample("mu", dist.Normal(0, 1))
"""
DISCRETE = """
import numpyro, numpyro.distributions as dist
def model(y):
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(k, 1), obs=y)
"""
PLATE = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist
def model(size, y):
    with numpyro.plate("component", size):
        means = numpyro.sample("means", dist.Normal(0, 3))
    shares = dist.Categorical(probs=jnp.ones(size) / size)
    numpyro.sample("y", dist.MixtureSameFamily(shares, dist.Normal(means, 0.5)), obs=y)
"""
SMALL = ["--chains", "2", "--warmup", "20", "--draws", "20"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = 0.7 * x + 0.3 * rng.normal(size=30)
    for name, text in (
        ("regression", REGRESSION),
        ("mixture", MIXTURE),
        ("prior", NOTHING_OBSERVED),
        ("discrete", DISCRETE),
        ("raises", RAISES),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    np.savez(tmp_path / "xy.npz", x=x, y=y)
    np.savez(tmp_path / "y.npz", y=np.concatenate([rng.normal(-2, 0.5, 40), rng.normal(2, 0.5, 20)]))
    np.savez(tmp_path / "xyz.npz", x=x, y=y, z=y)
    np.savez(tmp_path / "nan.npz", x=np.where(np.arange(30) == 3, np.nan, x), y=y)
    np.savez(tmp_path / "short.npz", x=x, y=y[:-1])
    np.savetxt(tmp_path / "xy.csv", np.column_stack([x, y]), delimiter=",", header="x,y", comments="")
    (tmp_path / "corrupt.npz").write_bytes((tmp_path / "xy.npz").read_bytes()[:200])
    with (tmp_path / "renamed.npz").open("wb") as file:
        np.save(file, y)
    (tmp_path / "text.csv").write_text("y\n1.0\nred\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "letter.txt").write_text("not a run")
    return tmp_path


BAD = {
    "no model": (["sample", "-o", "run"], "expected either MODEL.py or --network"),
    "both": (["sample", "regression.py", "--network", "mlp:3", "-o", "run"], "expected either MODEL.py or --network"),
    "model file missing": (["sample", "nowhere.py", "-o", "run"], "there is no file nowhere.py"),
    "data file missing": (
        ["sample", "regression.py", "--data", "nowhere.npz", "-o", "run"],
        "there is no file nowhere.npz",
    ),
    "array fits nowhere": (["sample", "regression.py", "--data", "xyz.npz", "-o", "run"], "the data hold z"),
    "argument without array": (["sample", "regression.py", "-o", "run"], "the model needs x"),
    "NaN": (["sample", "regression.py", "--data", "nan.npz", "-o", "run"], "x"),
    "wrong length": (["sample", "regression.py", "--data", "short.npz", "-o", "run"], "y"),
    "model raises": (["sample", "raises.py", "--data", "y.npz", "-o", "run"], "RuntimeError: the moon is full"),
    "text among the data": (["symmetries", "mixture.py", "--data", "text.csv"], "y"),
    "nothing observed": (["sample", "prior.py", "-o", "run"], "observed"),
    "discrete latent": (["sample", "discrete.py", "--data", "y.npz", "-o", "run"], "discrete"),
    "corrupt data file": (["symmetries", "mixture.py", "--data", "corrupt.npz"], "could not be read as an .npz file"),
    "no archive": (["symmetries", "mixture.py", "--data", "renamed.npz"], "could not be read as an .npz file"),
    "split with a file": (["symmetries", "mixture.py", "--data", "y.npz", "--split", "0"], "--split goes with"),
    "no folder": (["sample", "regression.py", "--data", "xy.npz"], "expected -o RUN"),
    "resume and a new folder": (["sample", "--resume", "notes", "-o", "run"], "--output was settled when notes"),
    "resume with a kernel": (["sample", "--resume", "notes", "--kernel", "hmc"], "--kernel was settled"),
    "resume what is no run": (["sample", "--resume", "notes"], "notes cannot be resumed"),
    "setting without value": (
        ["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--set", "step_size"],
        "expected NAME=VALUE after --set",
    ),
    "impossible setting": (
        ["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--set", "step_size=-1.0"],
        "step_size must be a number strictly between",
    ),
    "half of several processes": (
        ["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--num-processes", "2"],
        "no --coordinator and no --process-id",
    ),
    "run below a file": (
        ["sample", "regression.py", "--data", "xy.npz", "-o", "regression.py/run"],
        "lies below the file 'regression.py'",
    ),
    "setting of the other kernel": (
        ["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--kernel", "hmc", "--max-tree-depth", "3"],
        "hmc has the settings num_warmup,",
    ),
    "setting of another kernel": (
        ["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--steps", "5"],
        "got 'num_integration_steps'",
    ),
    "network's option with a file": (
        ["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--prior", "laplace"],
        "--prior goes with --network",
    ),
    "classes of a number": (
        ["symmetries", "--network", "mlp:3", "--dataset", "diabetes", "--likelihood", "categorical"],
        "the target of diabetes is taken for a number",
    ),
    "negative split": (["symmetries", "--network", "mlp:3", "--dataset", "diabetes", "--split", "-1"], "at least 0"),
    "zero draws": (["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--draws", "0"], "draws"),
    "zero chains": (["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--chains", "0"], "chains"),
    "devices": (
        ["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--chains", "2", "--devices", "3"],
        "devices",
    ),
    "run folder in use": (["sample", "regression.py", "--data", "xy.npz", "-o", "notes"], "notes"),
    "prior name": (["sample", "--network", "mlp:3", "--dataset", "diabetes", "--prior", "gauss", "-o", "run"], "gauss"),
    "prior setting": (
        ["sample", "--network", "mlp:3", "--dataset", "diabetes", "--prior", "normal:sd=1", "-o", "run"],
        "sd",
    ),
    "activation": (
        ["sample", "--network", "mlp:3", "--dataset", "diabetes", "--activation", "tahn", "-o", "run"],
        "tahn",
    ),
    "network": (["sample", "--network", "cnn:3", "--dataset", "diabetes", "-o", "run"], "mlp"),
    "width": (["sample", "--network", "mlp:three", "--dataset", "diabetes", "-o", "run"], "three"),
    "dataset": (["sample", "--network", "mlp:3", "--dataset", "diabetis", "-o", "run"], "diabetis"),
    "no dataset": (["symmetries", "--network", "mlp:3"], "--dataset"),
    "no run": (["diagnose", "notes"], "notes"),
    "nowhere": (["diagnose", "nowhere"], "nowhere"),
    "no run to summarise": (["summary", "notes"], "notes"),
    "demo over something else": (["demo", "-o", "notes"], "notes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = BAD[case]
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert expected in line
    after = sorted(path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts)
    assert after == before


@pytest.mark.parametrize("flags", [["--chains", "-1"], ["--draws", "0"], ["--devices", "3"], ["--warmup", "-1"]])
def test_bad_settings_are_refused_before_anything_slow(
    flags: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symmetry, "find_symmetries", lambda posterior: pytest.fail("symmetries were looked for"))
    assert main(["sample", "regression.py", "--data", "xy.npz", "-o", "run", *flags]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_refused_demo_leaves_the_last_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "manifest.json").write_text("{}")
    assert main(["demo", "-o", "old", "--chains", "0"]) == 2
    assert (folder / "old" / "manifest.json").exists()


def test_a_whole_number_among_the_data_is_a_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plate.py").write_text(PLATE)
    np.savez("sized.npz", size=3, y=np.linspace(-1, 1, 6))
    assert main(["symmetries", "plate.py", "--data", "sized.npz"]) == 0
    assert "S_3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["diagnose"],
        ["demo", "--seed", "1" + 20 * "0"],
        ["sample", "regression.py", "-o", "run", "--mesh", "4"],
        ["sample", "regression.py", "-o", "run", "--mesh", "2x1x4x1"],
    ],
)
def test_bad_usage_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("data", first(1, ["xy.csv", "xy.npz"]))
def test_a_model_file_is_sampled_judged_and_summarised(
    data: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--chains", "4", "--warmup", "200", "--draws", "300"]
    assert main(["sample", "regression.py", "--data", data, "-o", "run", "--json", *size]) == 0
    sampled = json.loads(capsys.readouterr().out)
    (folder / "regression.py").unlink()
    assert main(["diagnose", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == sampled
    assert main(["modes", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modes"] == sampled["modes"]
    assert main(["modes", "run"]) == 0
    assert capsys.readouterr().out.startswith("MODES: 1 in the raw weights, 1 once symmetries are removed")
    assert main(["summary", "run", "--json", "--vars", "slope"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["slope"]["mean"] - 0.7) < 0.2
    assert az.from_netcdf("run/tree.nc")["posterior"]["slope"].shape == (4, 300)


def test_symmetries_of_a_mixture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["symmetries", "mixture.py", "--data", "y.npz"]) == 0
    assert "S_2" in capsys.readouterr().out
    assert main(["symmetries", "mixture.py", "--data", "y.npz", "--json"]) == 0
    (factor,) = json.loads(capsys.readouterr().out)["posterior"]["factors"]
    assert (factor["kind"], factor["size"]) == ("permutation", 2)


@pytest.mark.slow  # the README has another such network
def test_a_network_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [
        "--network",
        "mlp:4",
        "--activation",
        "relu",
        "--dataset",
        "iris",
        "--prior",
        "laplace:scale=2",
        "--fan-in",
    ]
    assert main(["symmetries", *named]) == 0
    assert "S_4" in capsys.readouterr().out
    assert main(["sample", *named, "-o", "run", *SMALL]) in (0, 1)
    assert "canonical" in capsys.readouterr().out


def test_too_short_a_run_is_a_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "regression.py", "--data", "xy.npz", "-o", "run", *SMALL]) == 1
    assert main(["diagnose", "run"]) == 1
    assert "CHAINS TOO SHORT" in capsys.readouterr().out


def test_kernels_by_name_are_those_of_inference() -> None:
    classes = [c for c in vars(inference).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
    found = {c.__name__.lower() for c in classes if hasattr(c, "init") and hasattr(c, "step")}
    assert set(kernels.NAMES) == found - {"withorbitmoves"}


def test_settings_are_read_from_text() -> None:
    built = kernels.build("hmc", {"num_integration_steps": kernels._value("8"), "jitter": kernels._value("0.25")})
    assert built == inference.HMC(num_integration_steps=8, jitter=0.25)
    assert kernels._value("hmc:num_integration_steps=8") == inference.HMC(num_integration_steps=8)
    assert [kernels._value(text) for text in ("true", "None", "1e-3", "rest")] == [True, None, 1e-3, "rest"]


def test_a_finished_run_goes_on_from_anywhere(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is found again from another folder, and the draws are those of a run that was longer from the start."""
    size = ["--chains", "2", "--warmup", "50", "--kernel", "hmc", "--steps", "4", "--thin", "2"]
    assert main(["sample", "regression.py", "--data", "xy.npz", "-o", "run", "--draws", "40", *size]) in (0, 1)
    assert main(["sample", "regression.py", "--data", "xy.npz", "-o", "long", "--draws", "90", *size]) in (0, 1)
    monkeypatch.chdir(folder / "notes")
    capsys.readouterr()
    assert main(["sample", "--resume", "../run", "--draws", "90"]) in (0, 1)
    assert "s sampling" in capsys.readouterr().out
    short, long = (inference.read_run(folder / name)[0] for name in ("run", "long"))
    assert (short.num_draws, short.thin, short.interrupted) == (90, 2, False)
    for site, values in long.weights.items():
        np.testing.assert_array_equal(short.weights[site], values)
    assert main(["sample", "--resume", "../run", "--draws", "10"]) == 2
    assert "draws that are there are not thrown away" in capsys.readouterr().err
    np.savez(folder / "xy.npz", x=np.zeros(30), y=np.zeros(30))
    assert main(["sample", "--resume", "../run", "--draws", "100"]) == 2
    assert "made with another data" in capsys.readouterr().err
    assert main(["diagnose", "../run"]) in (0, 1)


@pytest.mark.parametrize("how", ["INT", pytest.param("KILL", marks=pytest.mark.slow)])
def test_a_run_stopped_from_the_shell_goes_on(how: str, folder: Path) -> None:
    """As a user would: `timeout -s INT` or `-s KILL`, then --resume."""
    command = [sys.executable, "-m", "manymodes", "sample"]
    model = ["regression.py", "--data", "xy.npz", "-o", "run"]
    # Trajectories so long that a second has some hundred draws.
    begin = [*command, *model, "--draws", "500000", "--warmup", "20", "--kernel", "hmc", "--steps", "2000"]
    process = subprocess.run(
        ["timeout", "--preserve-status", "-s", how, "15", *begin], check=False, capture_output=True, text=True
    )
    assert process.returncode in ((1,) if how == "INT" else (137, -9)), process.stderr
    draws, manifest = inference.read_run("run")
    assert draws.num_draws > 0
    assert manifest["status"] == ("interrupted" if how == "INT" else "running")
    if how == "INT":
        assert "stopping when the running blocks have ended" in process.stderr
        assert "manymodes sample --resume run" in process.stderr
    # Short enough to end: as if so many draws had been wanted from the start.
    wanted = draws.num_draws + 50
    (folder / "run" / "manifest.json").write_text(json.dumps(manifest | {"num_draws": wanted}))
    resumed = subprocess.run([*command, "--resume", "run"], check=False, capture_output=True, text=True)
    assert resumed.returncode in (0, 1), resumed.stderr
    again = inference.read_run("run")[0]
    assert not again.interrupted
    np.testing.assert_array_equal(again.weights["slope"][:, : draws.num_draws], draws.weights["slope"])
    assert main(["summary", "run"]) == 0
