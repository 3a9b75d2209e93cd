"""`manymodes symmetries` of a function: files as users write them, and one sentence for each that cannot be read."""

import json
from pathlib import Path

import numpy as np
import pytest

from manymodes.main import main
from symmetry import Symmetries

HEAD = """
from __future__ import annotations
import jax, jax.numpy as jnp, numpy as np
x = jax.ShapeDtypeStruct((5, 3), jnp.float32)
"""
NETWORK = """
def apply(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]
"""
PARAMS = """
params = {"w": np.ones((3, 4)), "v": np.ones((4, 2))}
"""
GOOD = {
    "arrays": HEAD + NETWORK + PARAMS,
    "shapes": HEAD + NETWORK + PARAMS + "params = jax.eval_shape(lambda: params)",
    "init of nothing": HEAD + NETWORK + "def init(): return {'w': jnp.ones((3, 4)), 'v': jnp.ones((4, 2))}",
    "init of a key": HEAD
    + NETWORK
    + "def init(key, scale=2.0): return {'w': scale * jax.random.normal(key, (3, 4)), 'v': jnp.ones((4, 2))}",
    "init of a key and x": HEAD
    + NETWORK
    + "def init(key, x): return {'w': jax.random.normal(key, (x.shape[1], 4)), 'v': jnp.ones((4, 2))}",
    "flax linen": HEAD
    + """
from flax import linen
class Network(linen.Module):
    width: int
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2, use_bias=False)(jnp.tanh(linen.Dense(self.width, use_bias=False)(x)))
apply, init = Network(4).apply, Network(4).init
""",
    "flax nnx": HEAD
    + """
from flax import nnx
class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, use_bias=False, rngs=rngs)
        self.last = nnx.Linear(4, 2, use_bias=False, rngs=rngs)
    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))
graph, params = nnx.split(nnx.eval_shape(lambda: Network(nnx.Rngs(0))))
def apply(params, x):
    return nnx.merge(graph, params)(x)
""",
    "equinox": HEAD
    + """
import equinox as eqx
params = eqx.filter_eval_shape(lambda: eqx.nn.MLP(3, 2, 4, 1, jnp.tanh, use_bias=False, use_final_bias=False,
                                                  key=jax.random.key(0)))
def apply(params, x):
    return jax.vmap(params)(x)
""",
}
WITHOUT_X = HEAD.partition("x =")[0]
BAD = {
    "no inputs": (WITHOUT_X + NETWORK + PARAMS, [], "expected network.py to define `x`"),
    "no parameters": (HEAD + NETWORK, [], "expected network.py to define `params`"),
    "two kinds of parameters": (HEAD + NETWORK + PARAMS + "init = lambda: params", [], "either `params` or `init`"),
    "two models": (HEAD + NETWORK + PARAMS + "def model(): pass", [], "either `model` or `apply`; it defines both"),
    "neither": (HEAD, [], "expected network.py to define a function `model`"),
    "apply is no function": (HEAD + PARAMS + "apply = 3", [], "to be a function apply(params, x); it is of type int"),
    "init is no function": (HEAD + NETWORK + "init = {}", [], "`init` in network.py to be a function"),
    "init raises": (HEAD + NETWORK + "def init(key): return 1 / 0", [], "ZeroDivisionError: division by zero"),
    "init returns text": (HEAD + NETWORK + "def init(): return 'w'", [], "a pytree of arrays, given nothing"),
    "inputs twice": (HEAD + NETWORK + PARAMS, ["--data", "x.npz"], "in network.py or after --data; it is in both"),
    "other data": (WITHOUT_X + NETWORK + PARAMS, ["--data", "xy.npz"], "its inputs x alone; they hold y"),
    "file raises": ("raise RuntimeError('no')", [], "network.py could not be executed: RuntimeError: no"),
    "control flow": (
        HEAD + PARAMS + "def apply(params, x): return x @ params['w'] if params['v'].sum() > 0 else x",
        [],
        "apply must be traceable by JAX, but Python itself needs numbers out of an array at line 7 of network.py",
    ),
    "integers": (HEAD + NETWORK + "params = {'w': np.ones(3, int)}", [], "but they hold w (int64)"),
    "nothing finite": (
        HEAD + PARAMS + "def apply(params, x): return jnp.log(-jnp.abs(x @ params['w'])) @ params['v']",
        [],
        "apply(params, x) is NaN or infinite at all parameters that were tried",
    ),
    "shapes that do not fit": (
        HEAD + NETWORK + PARAMS + "x = jnp.ones((5, 4))",
        [],
        "must run on the given params and an x of float32[5, 4], but raised TypeError: dot_general requires",
    ),
}


def run(text: str, folder: Path, *options: str) -> int:
    (folder / "network.py").write_text(text)
    return main(["symmetries", "network.py", *options])


@pytest.mark.parametrize("case", GOOD)
def test_files_that_define_a_function(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(GOOD[case], tmp_path, "--json") == 0
    found = Symmetries.from_json(capsys.readouterr().out)
    assert found.posterior is None
    assert [(factor.kind, factor.size) for factor in found.likelihood.factors] == [("permutation", 4), ("sign", 4)]
    assert all(factor.certificate for factor in found.likelihood.factors)


def test_inputs_from_a_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.ones((5, 3)))
    assert run(WITHOUT_X + NETWORK + PARAMS, tmp_path, "--data", "x.npz") == 0
    assert "S_4 x Z_2^4" in capsys.readouterr().out


def test_without_certificates_the_function_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere_finite = HEAD + PARAMS + "def apply(params, x): return jnp.log(-jnp.abs(x @ params['w'])) @ params['v']"
    assert run(nowhere_finite, tmp_path, "--no-certify", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["likelihood"]["factors"][:1]
    assert found["certificate"] is None
    assert run(nowhere_finite, tmp_path, "--no-certify") == 0
    assert "not certified" in capsys.readouterr().out


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.ones((5, 3)))
    np.savez("xy.npz", x=np.ones((5, 3)), y=np.ones(5))
    text, options, expected = BAD[case]
    assert run(text, tmp_path, *options) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("manymodes symmetries: ")
    assert expected in line
    assert captured.out == ""


def test_help_says_what_the_file_defines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["symmetries", "--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("apply(params, x)", "init(key, x)", "`params`", "--no-certify"))


def test_completeness_is_counted_where_it_is_asked_for(tmp_path, capsys):
    path = tmp_path / "network.py"
    path.write_text(GOOD["arrays"])
    assert main(["symmetries", str(path), "--completeness"]) == 0
    assert "complete: 0 of 20 directions change nothing" in capsys.readouterr().out
    assert main(["symmetries", str(path), "--completeness", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["completeness"] == {"num_parameters": 20, "num_flat": 0, "num_explained": 0, "unchecked": ""}
