"""Made-up boot loaders on a made-up machine: what they are told, what they would boot next, and what ever after."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tests.agent.made_up import Machine

from nixfleet.agent import bootmenu
from nixfleet.agent.units import Ran

Loader = Literal["systemd-boot", "grub", "none"]
INSTALL = """\
#!/bin/sh
# An entry for each generation, and the system of the installer ($1) the default.
root={root}
body="linux (\\$drive1)//kernels/x"
entry() {{ printf 'menuentry "%s" --class nixos {{\\n  %s init=%s/init quiet\\n}}\\n' "$1" "$body" "$2"; }}
exec 3>$root/boot/menu.new 4>$root/boot/grub/grub.cfg.new
{{ cat $root/boot/head; entry NixOS "$1"; echo 'submenu "NixOS - All configurations" --class submenu {{'; }} >&4
for one in $root/nix/var/nix/profiles/system-*-link; do
  number=${{one##*system-}} number=${{number%-link}} path=$(readlink "$one")
  echo "$number $path" >&3
  entry "NixOS - Configuration $number (2026-01-02 - 25.05)" "$path" >&4
done
echo '}}' >&4
mv $root/boot/menu.new $root/boot/menu
mv $root/boot/grub/grub.cfg.new $root/boot/grub/{cfg}
echo "$1" >$root/boot/default
"""
GRUB_HEAD = """\
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ]; then
  set default="${next_entry}"
  set next_entry=
  save_env next_entry
else
  set default=0
fi
function savedefault {
    saved_entry="${chosen}"
}
"""


class BootLab:
    """The boot loader of a machine; `run` is what its tools do."""

    def __init__(self, machine: Machine, loader: Loader) -> None:
        self.machine, self.loader = machine, loader
        self.calls: list[str] = []
        self.broken: set[str] = set()
        """Verbs that fail."""
        self.goes_down = False
        """Whether the machine does as it is told, when it is told to reboot."""
        self.forgets = False
        """Whether the firmware says yes and keeps nothing."""
        machine.write("/boot/head", GRUB_HEAD)
        machine.write("/boot/grub/grubenv", "# GRUB Environment Block\n")
        cfg = "grub.cfg" if loader == "grub" else "none.cfg"
        machine.write("/boot/install", INSTALL.format(root=machine.root, cfg=cfg))
        (machine.root / "boot/install").chmod(0o755)
        mounts = (
            f"20 1 0:20 / {bootmenu.EFI_VARIABLES} rw - efivarfs efivarfs rw\n21 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n"
        )
        machine.write("/proc/self/mountinfo", mounts)
        if loader == "systemd-boot":
            self._write("LoaderInfo", "systemd-boot 257.6")
            self._put("LoaderFeatures", (0x7F).to_bytes(8, "little"))

    def system(
        self, name: str, kernel: str, *, code: int = 0, at: str = "nix/store", agent_toml: str | None = None
    ) -> str:
        """Make a system of a kernel, with an installer."""
        path = self.machine.system(name, at=at, code=code, agent_toml=agent_toml)
        place = self.machine.root / at / Path(path).name
        switch = place / "bin/switch-to-configuration"
        install = f'[ "$1" = test ] || {self.machine.root}/boot/install {path}'
        switch.write_text(switch.read_text().replace("new=", f"{install}\nnew=", 1))
        target = f"/nix/store/{'7' * 32}-linux-{kernel}"
        self.machine.write(f"{target}/bzImage", "kernel")
        (place / "kernel").symlink_to(f"{target}/bzImage")
        for tool in ("grub-reboot", "grub-editenv") if self.loader == "grub" else ():
            (place / f"sw/bin/{tool}").write_text("")
        return path

    def install(self, path: str) -> None:
        """Install a system as it is at first: alone in the menu, and the default."""
        self.machine.boot(path)
        subprocess.run([self.machine.root / "boot/install", path], check=True)

    async def run(self, argv: Sequence[str], timeout_s: float) -> Ran:
        """Do what a tool does."""
        assert timeout_s > 0
        words = (argv[0].rpartition("/")[2], *argv[1:])
        self.calls.append(" ".join(words))
        if self.broken & set(words):
            return Ran(1, ("it is broken",))
        match words:
            case ("bootctl", "list", *_):
                return Ran(0, ("warning: of the firmware", json.dumps(self._entries())))
            case ("bootctl", "set-default", entry):
                self._write("LoaderEntryDefault", entry)
            case ("bootctl", "set-oneshot", entry):
                self._write("LoaderEntryOneShot", entry)
            case ("grub-reboot", _, entry):
                self._memory("" if self.forgets else f"next_entry={entry}\n")
            case ("grub-editenv", _, "unset", "next_entry"):
                self._memory("")
            case ("reboot",) if self.goes_down:
                pass
            case _:
                return Ran(None, ())
        return Ran(0, ())

    def reboot(self, boot_id: str = "boot-2") -> str:
        """Boot what it would boot next; give what runs then."""
        path = self.next()
        for link in ("current-system", "booted-system"):
            place = self.machine.root / "run" / link
            place.unlink()
            place.symlink_to(path)
        self.machine.write("/proc/sys/kernel/random/boot_id", f"{boot_id}\n")
        return path

    def default(self) -> str:
        """Name the system that it boots when nobody says otherwise."""
        menu = {entry["id"]: entry["system"] for entry in self._entries()}
        pinned = bootmenu.variable(self.machine.host, "LoaderEntryDefault")
        return menu.get(pinned) or self.machine.host.read("/boot/default").strip()

    def next(self) -> str:
        """Name what it boots now, and forget what it was told to boot once."""
        if self.loader == "systemd-boot":
            menu = {entry["id"]: entry["system"] for entry in self._entries()}
            once = bootmenu.variable(self.machine.host, "LoaderEntryOneShot")
            self._write("LoaderEntryOneShot", "")
        else:
            menu = {entry.id: entry.system for entry in bootmenu.grub_menu(self.machine.host.read(bootmenu.GRUB_MENU))}
            once = bootmenu.grub_once(self.machine.host)
            self._memory("")
        return menu.get(once) or self.default()

    def told_once(self) -> str:
        """Name the entry that it boots once, next."""
        found = bootmenu.variable(self.machine.host, "LoaderEntryOneShot")
        return found or bootmenu.grub_once(self.machine.host)

    def _entries(self) -> list[dict[str, str]]:
        lines = self.machine.host.read("/boot/menu").split("\n")
        pairs = [line.split() for line in lines if line]
        return [
            {"id": f"nixos-generation-{number}.conf", "system": path, "options": f"init={path}/init loglevel=4"}
            for number, path in pairs
        ]

    def _memory(self, text: str) -> None:
        self.machine.write(bootmenu.GRUB_MEMORY, f"# GRUB Environment Block\n{text}{'#' * 900}")

    def _write(self, name: str, text: str) -> None:
        if not (self.forgets and name.startswith("LoaderEntry")):
            self._put(name, f"{text}\0".encode("utf-16-le"))

    def _put(self, name: str, data: bytes) -> None:
        place = self.machine.host.at(f"{bootmenu.EFI_VARIABLES}/{name}-{bootmenu.LOADER}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"\x07\0\0\0" + data)
