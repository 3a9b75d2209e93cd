"""The house stays as it is drawn: who imports whom, where each library lives, and what the wheel installs."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bnn_models", "symmetry", "inference", "diagnostics", "manymodes")
MAY_IMPORT = {
    "bnn_models": set(),
    "symmetry": {"bnn_models"},
    "inference": {"bnn_models", "symmetry"},
    "diagnostics": {"bnn_models", "symmetry", "inference"},
    "manymodes": {"bnn_models", "symmetry", "inference", "diagnostics"},
}
EVERYWHERE = {"jax", "numpy", "jaxtyping"}
HOMES = {
    "numpyro": {"bnn_models", "symmetry/discovery"},
    "flax": {"bnn_models"},
    "blackjax": {"inference"},
    "optax": {"inference"},
    "scipy": {"symmetry", "diagnostics"},
    "cvxpy": {"symmetry/balance.py"},
    "sklearn": {"bnn_models/datasets.py", "diagnostics"},
    "arviz": {"diagnostics"},
    "xarray": {"diagnostics"},
    "matplotlib": {"diagnostics"},
    "plotly": {"diagnostics"},
    "pandas": {"diagnostics"},
    "rich": {"inference", "manymodes"},
    "tensorflow_datasets": {"bnn_models/datasets.py"},
}
TOP_LEVEL = {
    "bnn_models", "inference", "diagnostics", "symmetry", "manymodes", "tests", "notebooks", "benchmarks", "docs",
    "pyproject.toml", "README.md", "LICENSE", "CONTRIBUTING.md", "Makefile", "constraints.txt",
}  # fmt: skip


def _imports(path: Path, *, typing: bool = True) -> Iterator[str]:
    """Yield the dotted name of every absolute import, also inside functions; if not `typing`, save those for types."""
    tree = ast.parse(path.read_text())
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    for_types = {id(inner) for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        if not typing and id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    for path in _sources(package):
        ours = {name.partition(".")[0] for name in _imports(path)} & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


@pytest.mark.parametrize("package", PACKAGES)
def test_third_party_libraries_stay_at_home(package: str) -> None:
    for path in _sources(package):
        place = path.relative_to(ROOT).as_posix()
        for library in {name.partition(".")[0] for name in _imports(path, typing=False)}:
            if library in PACKAGES or library in EVERYWHERE or library in sys.stdlib_module_names:
                continue
            homes = HOMES.get(library, set())
            assert any(place == home or place.startswith(home + "/") for home in homes), f"{place} imports {library}"


def test_the_import_test_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("def f():\n    import blackjax.mcmc\n    from numpyro.infer import MCMC\n")
    assert set(_imports(file)) == {"blackjax.mcmc", "numpyro.infer"}


def test_wheel_installs_the_five_packages_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert {name for name in names if name.endswith(".py")} == {
        path.relative_to(ROOT).as_posix() for package in PACKAGES for path in _sources(package)
    }


def test_every_package_folder_is_listed_in_pyproject() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        p.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for k in PACKAGES
        for p in (ROOT / k).rglob("__init__.py")
    }
    assert listed == found


def test_top_level_holds_the_house_and_nothing_else() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition("/")[0] for name in tracked if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("command", [["--help"], ["sample", "--help"], ["demo", "--help"]])
def test_help_imports_no_jax(command: list[str]) -> None:
    probe = (
        "import sys\nfrom manymodes.main import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'jax', 'numpy', 'numpyro', 'arviz', 'rich', 'scipy'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)


def test_pins_are_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.count("==") == 1, line
        assert "://" not in line
        assert "@" not in line
