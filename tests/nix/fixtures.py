"""Fixtures with real Nix, known to every test folder: builder, devices, caches, a network with address translation."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.nix.builder import Systems
from tests.nix.cacheserver import CacheServer
from tests.nix.machines import Admin, Device
from tests.nix.natlab import NatLab
from tests.nix.probes import need_namespaces, need_nix

from nixfleet.trust.narinfo import CacheKey

MakeDevice = Callable[..., Device]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that all test processes of this run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder


@pytest.fixture(scope="session")
def systems(shared_folder: Path) -> Systems:
    """Give the builder; systems are built when first asked for, once for all test processes."""
    need_nix()
    return Systems(shared_folder / "nix-builder")


@pytest.fixture(scope="session")
def cache_key() -> CacheKey:
    """Give the key that signs the caches of this test process."""
    return CacheKey.generate("fleet-1")


@pytest.fixture(scope="session")
def cache_folder(systems: Systems, cache_key: CacheKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a binary cache of A, B and BAD, signed; tests that spoil it make a copy."""
    folder = tmp_path_factory.mktemp("cache")
    for system in (systems.a, systems.b, systems.bad):
        systems.push(system, folder, cache_key)
    return folder


@pytest.fixture
def cache_server(cache_folder: Path) -> Iterator[CacheServer]:
    """Serve that cache over HTTP."""
    with CacheServer(cache_folder) as server:
        yield server


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[MakeDevice]:
    """Give a maker of devices: `make_device("web-01", netns=…)`; all that runs in them ends with the test."""
    need_nix()
    need_namespaces()
    with ExitStack() as machines:

        def make(name: str = "web-01", **settings: Any) -> Device:
            device = Device(tmp_path / name, name, **settings)
            machines.callback(device.close)
            return device

        yield make


@pytest.fixture
def admin(tmp_path: Path, systems: Systems) -> Iterator[Admin]:
    """Give an admin's machine whose local Nix store holds A, B, BAD and what else was built before."""
    need_namespaces()
    assert systems.a != systems.b != systems.bad
    machine = Admin(tmp_path / "admin", systems)
    yield machine
    machine.close()


@pytest.fixture
def nat_lab() -> Iterator[NatLab]:
    """Give a network with a device side behind address translation and a coordinator side."""
    with NatLab() as lab:
        yield lab
