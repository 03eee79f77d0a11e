"""A made-up NixOS machine in a folder: its links, its systems, its boots. Only files; nothing here is performed.

The switches in its systems are real programs, for who wants to run them.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from nixfleet.agent.host import Host
from nixfleet.agent.update import Offer
from nixfleet.model.statements import CacheRef

CACHE = CacheRef(url="http://cache.example:80", key="cache-1:" + "A" * 43 + "=")
SWITCH = """\
#!/bin/sh
echo "$1 {path}" >>{root}/switches
echo "switching to {path}"
{before}
new={root}/run/current-system.new
[ "$1" = boot ] || {{ ln -sfn {path} $new; mv -T $new {root}/run/current-system; }}
echo "switched"
exit {code}
"""

NIX_ENV = """\
#!/bin/sh
# nix-env --profile PROFILE --set SYSTEM …: adds a generation, unless it is the current one.
[ "$(readlink "${2%/*}/$(readlink "$2")")" = "$4" ] && exit 0
last=0
for one in "$2"-*-link; do one=${one##*system-}; one=${one%-link}; [ "$one" -gt "$last" ] && last=$one; done
ln -s "$4" "$2-$((last + 1))-link"
ln -sfn "system-$((last + 1))-link" "$2.new" && mv -T "$2.new" "$2"
"""


def store_path(name: str) -> str:
    """Make a system's store path out of a name."""
    return made_path(name, f"nixos-system-{name}")


def made_path(identity: str, name: str) -> str:
    """Make the store path of a package of this name; another identity has another path."""
    digits = "0123456789abcdfghijklmnpqrsvwxyz"
    number = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:20], "big")
    text = "".join(digits[(number >> (5 * at)) & 31] for at in range(32))
    return f"/nix/store/{text}-{name}"


@dataclass
class Machine:
    """A machine whose whole file tree is one folder."""

    root: Path
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        """Make what every NixOS machine has."""
        self.host = Host(root=self.root)
        for folder in (
            "run/nixos",
            "nix/store",
            "nix/var/nix/profiles",
            "nix/var/nix/gcroots/nixfleet",
            "etc",
            "cache",
        ):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.write("/proc/sys/kernel/random/boot_id", "boot-1\n")
        self.write("/proc/sys/kernel/hostname", "web-01\n")
        self.write("/etc/machine-id", "machine-1\n")

    @property
    def state_dir(self) -> Path:
        """Give the agent's state folder."""
        folder = self.root / "var/lib/nixfleet"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def system(
        self, name: str, *, at: str = "nix/store", code: int = 0, before: str = "", agent_toml: str | None = None
    ) -> str:
        """Make a system in the store, or in the cache with ``at="cache"``; its switch ends with `code`."""
        path = store_path(name)
        place = self.root / at / Path(path).name
        wants = place / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True)
        (place / "bin").mkdir()
        switch = place / "bin/switch-to-configuration"
        switch.write_text(SWITCH.format(path=path, root=self.root, code=code, before=before))
        switch.chmod(0o755)
        (place / "sw/bin").mkdir(parents=True)
        (place / "sw/bin/nix-env").write_text(NIX_ENV)
        (place / "sw/bin/nix-env").chmod(0o755)
        (wants.parent / "nixfleet-agent.service").write_text("[Service]\n")
        (wants / "nixfleet-agent.service").symlink_to("../nixfleet-agent.service")
        (place / "etc/nixfleet").mkdir()
        toml = f'state_dir = "{self.state_dir}"\n' if agent_toml is None else agent_toml
        (place / "etc/nixfleet/agent.toml").write_text(toml)
        (place / "system").write_text("x86_64-linux")
        return path

    def boot(self, path: str) -> None:
        """Make a system the running, booted and current one."""
        for link in ("current-system", "booted-system"):
            place = self.root / "run" / link
            place.unlink(missing_ok=True)
            place.symlink_to(path)
        set_profile(self.host, path)

    def switches(self) -> list[str]:
        """List the switches that were made, as ``verb path``."""
        place = self.root / "switches"
        return place.read_text().splitlines() if place.exists() else []

    def offer(self, path: str, *, index: int = 5, run: int = 1, digest: str = "") -> Offer:
        """Make an offer of a system in the cache or in the store."""
        return Offer(
            rollout=f"{index:064x}",
            epoch=0,
            index=index,
            run=run,
            path=path,
            system="x86_64-linux",
            digest=digest or digest_of(path),
            nar_bytes=1_000,
            caches=(CACHE,),
            confirm_s=60,
        )


def digest_of(path: str) -> str:
    """Give the digest that the made-up store tells of a path."""
    return hashlib.sha256(path.encode()).hexdigest()


def set_profile(host: Host, path: str) -> None:
    """Add a generation, as `nix-env --set` does; the same path again adds none."""
    folder = host.profile().parent
    if host.profile_system() == path:
        return
    numbers = [int(one.name.split("-")[1]) for one in folder.glob("system-*-link")]
    name = f"system-{max(numbers, default=0) + 1}-link"
    (folder / name).symlink_to(path)
    fresh = folder / "system.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.rename(folder / "system")
