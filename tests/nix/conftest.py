"""Fixtures of the tests of `nixfleet.nix`: handles on stores of their own, without a namespace."""

from pathlib import Path

import pytest
from tests.nix.builder import Systems, nix_env, write_conf

from nixfleet.nix import Nix


@pytest.fixture
def builder(systems: Systems) -> Nix:
    """Give a handle on the builder's store."""
    return Nix(store=str(systems.store), env=systems.env)


@pytest.fixture
def empty(tmp_path: Path) -> Nix:
    """Give a handle on an empty store."""
    write_conf(tmp_path / "conf")
    return Nix(store=f"local?root={tmp_path / 'store'}", env=nix_env(tmp_path / "conf", tmp_path / "home"))
