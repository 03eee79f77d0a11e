"""Does a system take a reboot? Judged by the file trees of the booted, the running and the new system; nothing is run.

It must never guess: what a system does not have (a container has no kernel) takes no reboot, nor does any part where
nothing says what was booted.
"""

import json
from pathlib import PurePosixPath
from typing import Final

from nixfleet.agent.host import Host
from nixfleet.model.text import one_line
from nixfleet.preview.packages import package_of
from nixfleet.preview.parts import PARTS, Part, changed

_LINKS: Final[dict[Part, str]] = {
    "kernel": "kernel",
    "initrd": "initrd",
    "modules": "kernel-modules",
    "systemd": "systemd",
}
"""Where a NixOS system has its parts."""
_INTERFACE: Final = "init-interface-version"
_INHIBITORS: Final = "switch-inhibitors"
_REASONS_MOST: Final = 8
_REASON_CHARS: Final = 80


def reasons(host: Host, new: str) -> tuple[str, ...]:
    """Say what of a system here only a reboot brings, seen from what was booted and what runs; nothing: no reboot.

    The kernel, its initrd and modules, and systemd are those of the boot. What inhibits a switch, and how init is
    spoken to, NixOS compares with the running system (switch-to-configuration).
    """
    booted, running = host.booted_system(), host.current_system()
    found = [
        changed(part, [before] if before else [], [after])
        for part in PARTS
        if booted and (after := _part(host, new, part)) and (before := _part(host, booted, part)) != after
    ]
    old, said = (host.read(f"{system}/{_INTERFACE}", 200).strip() for system in (running, new))
    if old and said and old != said:
        found.append(f"init {old} → {said}")
    inhibited = _inhibitors(host.read(f"{running}/{_INHIBITORS}"), host.read(f"{new}/{_INHIBITORS}"))
    return tuple(one_line(reason, _REASON_CHARS) for reason in (*found, *inhibited)[:_REASONS_MOST])


def _part(host: Host, system: str, part: Part) -> str:
    """Give the store path, with what is below it, that a system's link leads to; empty when there is none."""
    place = host.resolve(f"{system}/{_LINKS[part]}") if system else None
    if place is None or not place.exists():
        return ""
    inside = PurePosixPath(place).relative_to(host.root)
    return str(PurePosixPath("/", *inside.parts[:3])) if inside.parts[:2] == ("nix", "store") else f"/{inside}"


def _inhibitors(running: str, new: str) -> tuple[str, ...]:
    """Compare two lists of what inhibits a switch: named texts as JSON, or store paths by the line."""
    olds, news = _named(running), _named(new)
    return tuple(
        f"{name} changed" if olds[name].startswith("/nix/store/") else f"{name} {olds[name]} → {news[name]}"
        for name in sorted(olds.keys() & news.keys())
        if olds[name] != news[name]
    )


def _named(text: str) -> dict[str, str]:
    """Read a list of inhibitors; one that cannot be read inhibits nothing, as in NixOS itself."""
    if not text.lstrip().startswith("{"):
        return {
            package_of(line).name: line for line in map(str.strip, text.splitlines()) if line.startswith("/nix/store/")
        }
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
