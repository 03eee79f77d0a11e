"""Real Nix on an admin's machine: a flake without inputs is evaluated and built, offline."""

import shutil
from pathlib import Path

import pytest
from tests.nix.builder import SYSTEMS
from tests.nix.harness import Systems

from nixfleet.errors import UserError
from nixfleet.nix import FaultKind, Nix, NixError, toplevel_attr

pytestmark = pytest.mark.nix

FLAKE = """{
  outputs = { self }: {
    nixosConfigurations = builtins.mapAttrs
      (name: version: { config.system.build.toplevel = import ./systems.nix { bb = ./bb; inherit version; }; })
      { "web-01" = 1; "web.02" = 27; };
    answer = { value = 42; };
    broken = throw "this one is broken";
  };
}
"""


@pytest.fixture
def own(tmp_path: Path) -> Systems:
    """Give a builder of this test's own: nobody may copy the shared store while something is built in it."""
    return Systems(tmp_path / "own")


@pytest.fixture
def builder(own: Systems) -> Nix:
    """Give a handle on that builder's store."""
    return Nix(store=str(own.store), env=own.env)


@pytest.fixture
def flake(own: Systems, tmp_path: Path) -> str:
    """Give a flake with two machines, made from a static busybox."""
    folder = tmp_path / "flake"
    shutil.copytree(SYSTEMS, folder)
    shutil.copytree(own.folder / "bb", folder / "bb")
    (folder / "flake.nix").write_text(FLAKE)
    return f"path:{folder}"


async def test_machines_of_a_flake_are_listed(builder: Nix, flake: str) -> None:
    """The names are those of nixosConfigurations, dots and all."""
    assert ["web-01", "web.02"] == await builder.eval_names(flake)


async def test_a_machine_of_a_flake_is_built(builder: Nix, flake: str) -> None:
    """Building gives the toplevel's path, valid in the store, and Nix's output as it comes."""
    said: list[str] = []
    path = await builder.build_flake(flake, toplevel_attr("web.02"), [], said.append)
    assert path.endswith("-nixos-system-unnamed-24.05.27")
    assert await builder.is_valid(path)
    assert any(path.rpartition("-")[2] in line for line in said)


async def test_values_are_evaluated_into_types(builder: Nix, flake: str) -> None:
    """A value is what the type says, or an error."""
    assert 42 == await builder.eval_json(flake, "answer", int, apply="a: a.value")
    with pytest.raises(NixError, match="unexpected"):
        await builder.eval_json(flake, "answer", int)


async def test_what_is_wrong_with_a_flake_is_one_sentence(builder: Nix, flake: str, tmp_path: Path) -> None:
    """A missing machine, a failing evaluation and a missing flake each say what it is."""
    with pytest.raises(NixError, match="does not provide attribute") as missing:
        await builder.build_flake(flake, toplevel_attr("nas-01"), [], lambda _: None)
    assert FaultKind.other == missing.value.kind
    with pytest.raises(NixError, match="this one is broken"):
        await builder.eval_json(flake, "broken", int)
    with pytest.raises(NixError, match=r"flake\.nix|No such file|does not exist"):
        await builder.eval_names(f"path:{tmp_path / 'none'}")
    for ref in ("-x", f"{flake}#web-01"):
        with pytest.raises(UserError, match="is no flake"):
            await builder.eval_names(ref)
