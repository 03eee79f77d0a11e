"""Boot a system once and fall back: what the boot loader is told, and read back, around an update that needs a reboot.

Until such an update has confirmed, the system that ran before stays the boot default. It must never make another one
the default, which only the boot loader's own installer does (switch-to-configuration).
"""

from typing import Final, assert_never

from nixfleet.agent import bootmenu
from nixfleet.agent.bootmenu import GRUB_MEMORY, GRUB_MENU, Kind
from nixfleet.agent.host import Host
from nixfleet.agent.units import Ran, Run
from nixfleet.errors import UserError
from nixfleet.model.ids import store_name

TOOL_S: Final = 60.0


class Fallback:
    """The boot loader of one host."""

    def __init__(self, host: Host, run: Run) -> None:
        """Prepare; nothing is read or run."""
        self._host, self._run = host, run

    async def usable(self, previous: str) -> Kind:
        """Tell by which loader this machine would fall back to a system: none when that has no entry there."""
        kind = bootmenu.kind_of(self._host)
        return kind if kind != "none" and await self._find(kind, previous) else "none"

    async def pin(self, kind: Kind, previous: str) -> None:
        """Let a system stay the boot default, whatever its loader's files say from now on. Raises: UserError.

        GRUB has no such pin: its menu begins with the system whose installer wrote it, which is this one.
        """
        if kind == "systemd-boot":
            await self._set("set-default", "LoaderEntryDefault", await self._entry(kind, previous))

    async def once(self, kind: Kind, system: str) -> None:
        """Boot a system once, next, and see that the loader remembers. Raises: UserError."""
        match kind:
            case "systemd-boot":
                await self._set("set-oneshot", "LoaderEntryOneShot", await self._entry(kind, system))
            case "grub":
                entry = await self._entry(kind, system)
                await self._tool("grub-reboot", f"--boot-directory={self._host.at('/boot')}", entry)
                if bootmenu.grub_once(self._host) != entry:
                    raise UserError("GRUB does not remember what to boot once")
            case "none":
                return
            case _:
                assert_never(kind)

    async def release(self, kind: Kind) -> None:
        """Boot again what the loader's own files say, always. Raises: UserError."""
        match kind:
            case "systemd-boot":
                await self._set("set-oneshot", "LoaderEntryOneShot", "")
                await self._set("set-default", "LoaderEntryDefault", "")
            case "grub":
                if bootmenu.grub_once(self._host):
                    await self._tool("grub-editenv", str(self._host.at(GRUB_MEMORY)), "unset", "next_entry")
            case "none":
                return
            case _:
                assert_never(kind)

    async def _set(self, verb: str, name: str, entry: str) -> None:
        """Set a variable of systemd-boot, and read it back: some firmware forgets without a word."""
        if bootmenu.variable(self._host, name) == entry:
            return
        _check(await self._run(("bootctl", verb, entry), TOOL_S), f"bootctl {verb}")
        if bootmenu.variable(self._host, name) != entry:
            raise UserError(f"the firmware does not keep what bootctl {verb} told it")

    async def _tool(self, name: str, *arguments: str) -> None:
        tool = bootmenu.grub_tool(self._host, name)
        if not tool:
            raise UserError(f"the running system has no {name}")
        _check(await self._run((tool, *arguments), TOOL_S), name)

    async def _entry(self, kind: Kind, system: str) -> str:
        entry = await self._find(kind, system)
        if not entry:
            raise UserError(f"the boot menu has no entry of {store_name(system)}")
        return entry

    async def _find(self, kind: Kind, system: str) -> str:
        if kind == "grub":
            return bootmenu.find(bootmenu.grub_menu(self._host.read(GRUB_MENU, 4 << 20)), system)
        ran = await self._run(("bootctl", "list", "--json=short", "--no-pager"), TOOL_S)
        return bootmenu.find(bootmenu.systemd_menu("\n".join(ran.lines)), system) if ran.exit_code == 0 else ""


def _check(ran: Ran, what: str) -> None:
    if ran.exit_code != 0:
        end = "did not end in time" if ran.exit_code is None else f"ended with {ran.exit_code}"
        raise UserError(f"{what} {end}{f': {ran.lines[-1]}' if ran.lines else ''}")
