"""Fixtures of the tests on a real systemd."""

from collections.abc import AsyncIterator

import pytest
from tests.nix.builder import Systems
from tests.nix.probes import need_networks, need_nix
from tests.vm.site import Site, Workshop, need_machines, open_site


@pytest.fixture(scope="session")
def workshop(systems: Systems, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Give the builder of systems that boot."""
    need_nix()
    need_networks()
    need_machines()
    return Workshop(tmp_path_factory.mktemp("vm") / "workshop", systems)


@pytest.fixture
async def site(workshop: Workshop) -> AsyncIterator[Site]:
    """Give a site whose machine has system 1 on its disk, and is not booted yet."""
    async with open_site(workshop, workshop.build()) as made:
        yield made
