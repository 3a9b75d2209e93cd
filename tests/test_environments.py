"""Symmetry discovery reads jaxprs, which JAX may change: it runs with the oldest and the newest JAX that is allowed."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
DISCOVERY = ROOT / "tests" / "symmetry" / "discovery"
SELECTION = ("test_control.py", "test_networks.py", "test_primitives.py")
SECONDS = 1500


def _run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def _allowed(offered: list[Version]) -> list[Version]:
    """The versions that ``pyproject.toml`` allows, in order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (jax,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "jax")
    return sorted(jax.specifier.filter(offered))


@pytest.fixture(scope="module")
def versions() -> list[Version]:
    listed = _run("-m", "pip", "index", "versions", "jax")
    found = re.search(r"Available versions: (.*)", listed.stdout)
    if listed.returncode or not found:
        pytest.skip("no package index answers")
    return _allowed([Version(text) for text in found[1].split(", ")])


def _environment(version: Version, folder: Path) -> str:
    """A folder with this JAX, to go before all other packages, which stay as they are."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("jax")]
    (folder / "pins.txt").write_text("\n".join(pins))
    target = folder / "packages"
    installed = _run(
        "-m", "pip", "install", "--quiet", "--target", target, "-c", folder / "pins.txt", f"jax=={version}"
    )
    assert installed.returncode == 0, installed.stderr
    imported = _run("-c", "import jax; print(jax.__version__, jax.__file__)", PYTHONPATH=str(target)).stdout
    assert Version(imported.split()[0]) == version
    assert Path(imported.split()[1]).is_relative_to(target)
    return str(target)


def test_the_pinned_jax_is_allowed() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert _allowed([Version("0.1"), Version(pins["jax"]), Version("99")]) == [Version(pins["jax"])]


@pytest.mark.slow
@pytest.mark.parametrize("position", [0, -1], ids=["oldest", "newest"])
def test_discovery_runs_with_the_oldest_and_the_newest_jax(
    versions: list[Version], position: int, tmp_path: Path
) -> None:
    packages = _environment(versions[position], tmp_path)
    files = [DISCOVERY / name for name in SELECTION]
    tests = _run("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, PYTHONPATH=packages)
    assert tests.returncode == 0, f"JAX {versions[position]}\n{tests.stdout[-5000:]}"
    assert int(re.search(r"(\d+) passed", tests.stdout)[1]) > 100
