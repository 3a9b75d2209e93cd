"""How devices are dealt out: by rule, or as asked for, or refused in one sentence. Stand-ins for devices will do."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from inference.mesh import CHAIN, DATA, RUNG, chains_of_process, device_mesh


@dataclass(frozen=True)
class Device:
    """What a mesh reads of a device."""

    id: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"


@pytest.fixture
def machine(monkeypatch):
    """Makes JAX report so many processes with so many devices each."""

    def make(num_processes, devices_each, process_index=0):
        devices = [Device(i, i // devices_each) for i in range(num_processes * devices_each)]
        monkeypatch.setattr(jax, "devices", lambda: devices)
        monkeypatch.setattr(jax, "process_count", lambda: num_processes)
        monkeypatch.setattr(jax, "process_index", lambda: process_index)
        return devices

    return make


def shape(mesh):
    assert mesh.axis_names == (CHAIN, DATA, RUNG)[: mesh.devices.ndim]
    return mesh.devices.shape


@pytest.mark.parametrize(
    ("num_chains", "expected"), [(1, 1), (3, 3), (4, 4), (6, 6), (7, 7), (8, 8), (10, 5), (11, 1), (16, 8)]
)
def test_rule_takes_the_most_devices_that_divide_the_chains_and_keeps_data_whole(machine, num_chains, expected):
    machine(1, 8)
    assert shape(device_mesh(num_chains)) == (expected, 1)


def test_devices_and_meshes_asked_for_are_taken(machine):
    devices = machine(1, 8)
    assert shape(device_mesh(8, 2)) == (2, 1)
    assert list(device_mesh(8, devices[3:5]).devices.flat) == devices[3:5]
    assert shape(device_mesh(8, shape=(2, 4))) == (2, 4)
    assert shape(device_mesh(1, shape=(1, 8))) == (1, 8)
    assert list(device_mesh(4, devices[4:], (2, 2)).devices.flat) == devices[4:]
    assert shape(device_mesh(8, shape=(2, 1, 4), num_rungs=8)) == (2, 1, 4)


@pytest.mark.parametrize(("num_chains", "expected"), [(2, (2, 1)), (4, (4, 1)), (8, (8, 1)), (6, (6, 1)), (10, (2, 1))])
def test_every_process_takes_equal_part(machine, num_chains, expected):
    machine(2, 4)
    mesh = device_mesh(num_chains)
    assert shape(mesh) == expected
    owners = np.asarray([device.process_index for device in mesh.devices[:, 0]])
    rows = np.arange(num_chains).reshape(expected[0], -1)
    for process in range(2):
        assert rows[owners == process].ravel().tolist() == list(chains_of_process(num_chains, process))


def test_a_data_axis_lies_inside_a_process(machine):
    machine(2, 4)
    for wanted in ((4, 2), (2, 4), (2, 2)):
        rows = device_mesh(8, shape=wanted).devices
        assert rows.shape == wanted
        assert all(len({device.process_index for device in row}) == 1 for row in rows)
    with pytest.raises(ValueError, match="A mesh of 1 x 8 does not fit 2 processes of 4 devices"):
        device_mesh(8, shape=(1, 8))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((8, 0), "devices must be between 1 and the 8 devices there are, got 0"),
        ((8, 9), "devices must be between 1 and the 8 devices there are, got 9"),
        ((8, []), "at least one device"),
        ((8, 3), "3 devices cannot hold 8 chains in equal parts"),
        ((2, 4), "4 devices were asked for but there are only 2 chains"),
        ((8, None, (3, 1)), "A mesh of 3 x 1 cannot hold 8 chains"),
        ((8, None, (4, 4)), "A mesh of 4 x 4 needs 16 devices, but 8 are there"),
        ((8, 4, (4, 2)), "A mesh of 4 x 2 needs 8 devices, but 4 are there"),
        ((8, None, (4, 0)), "mesh must be two or three whole numbers"),
        ((8, None, (4, True)), "mesh must be two or three whole numbers"),
        ((8, None, (1, 1, 1, 1)), "mesh must be two or three whole numbers"),
        ((8, None, (2, 1, 4), 6), "A mesh of 2 x 1 x 4 cannot hold 6 rungs"),
        ((8, None, (2, 1, 4)), "A mesh of 2 x 1 x 4 cannot hold 1 rungs"),
    ],
)
def test_what_does_not_fit_is_refused(machine, arguments, sentence):
    machine(1, 8)
    with pytest.raises(ValueError, match=sentence):
        device_mesh(*arguments)


def test_processes_that_do_not_fit_are_refused(machine):
    devices = machine(3, 2)
    with pytest.raises(ValueError, match="3 processes cannot hold 4 chains in equal parts"):
        device_mesh(4)
    with pytest.raises(ValueError, match="4 devices cannot be shared out equally among 3 processes"):
        device_mesh(12, 4)
    with pytest.raises(ValueError, match=r"equally many devices, but the processes have \[2, 1, 0\]"):
        device_mesh(12, devices[:3])


def test_named_devices_must_fill_the_mesh(machine):
    devices = machine(1, 8)
    with pytest.raises(ValueError, match="A mesh of 2 x 2 needs 4 devices, but 6 were named"):
        device_mesh(4, devices[:6], (2, 2))
