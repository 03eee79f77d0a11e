"""Which of the devices that ask is meant, and whether its key is the one that is known; nothing is signed here.

A name and facts are what a device says of itself: only a key, compared by a person, by ssh, or by a list, tells who it
is. It must never look up a host under a name that the device chose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nixfleet.cli.keys import read_key
from nixfleet.client.checks import check_request
from nixfleet.config import read_bounded
from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import Fingerprint, Tags
from nixfleet.model.typed import checked_fingerprint, parse_tags
from nixfleet.model.views import EnrollView
from nixfleet.trust.knownhosts import KnownHost, known_host, split_host

USER_HOSTS: Final = "~/.ssh/known_hosts"
SYSTEM_HOSTS: Final = "/etc/ssh/ssh_known_hosts"
"""Where ssh looks for everybody (sshd(8)); NixOS writes `programs.ssh.knownHosts` there."""
FILE_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device to be let in: its name, the keys that it may show (None: a person compares), and tags for it."""

    name: str
    keys: frozenset[Fingerprint] | None = None
    tags: Tags = field(default_factory=dict)


def key_of(text: str) -> Fingerprint:
    """Read a device's key, a file with it, or its fingerprint as a fingerprint. Raises: UserError."""
    if text.startswith("SHA256:"):
        return checked_fingerprint(text)
    return Fingerprint(read_key(text).fingerprint)


def read_text(file: Path) -> str:
    """Read a text file. Raises: UserError."""
    return read_bounded(file, FILE_BYTES_MAX).decode("utf-8", "replace")


def read_list(file: Path) -> list[Wanted]:
    """Read a list of devices, one a line: ``NAME [SHA256:…|ssh-ed25519 KEY] [TAG=VALUE…]``; ``#`` begins a comment.

    Raises: UserError that names file and line.
    """
    found: dict[str, Wanted] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            one = _wanted(words)
        except UserError as error:
            raise UserError(f"{file}:{number}: {error}") from error
        if one.name in found:
            raise UserError(f"{file}:{number}: {one.name} stands twice")
        found[one.name] = one
    if not found:
        raise UserError(f"{file}: it names no device; write a line NAME SHA256:… for each")
    return list(found.values())


def _wanted(words: list[str]) -> Wanted:
    name, *rest = words
    keys = None
    if rest and rest[0].startswith("SHA256:"):
        keys = frozenset({key_of(rest.pop(0))})
    elif rest and rest[0].startswith("ssh-"):
        keys = frozenset({key_of(" ".join(rest[:2]))})
        rest = rest[2:]
    return Wanted(name, keys, parse_tags(rest))


class KnownHosts:
    """What ssh knows of hosts, from one file or from the two where ssh looks."""

    def __init__(self, file: str) -> None:
        """Read `file`, or, when that is empty, the person's own and the machine's. Raises: UserError."""
        places = [Path(file)] if file else [Path(USER_HOSTS).expanduser(), Path(SYSTEM_HOSTS)]
        self._places = [place for place in places if file or place.exists()]
        if not self._places:
            raise UserError(f"there is neither {places[0]} nor {places[1]}; say which file has the hosts' keys")
        self._texts = [read_text(place) for place in self._places]

    def keys_of(self, host: str) -> frozenset[Fingerprint]:
        """Give the keys of a host that a device may show. Raises: UserError when none is known, and why."""
        name, port = split_host(host)
        known = known_host(self._texts, name, port)
        if not known.keys:
            raise UserError(f"{' and '.join(map(str, self._places))} {_no_key(known)}")
        return frozenset(known.keys)


def _no_key(known: KnownHost) -> str:
    if known.revoked:
        return f"has only a revoked key of {known.host}: let in nothing that shows it"
    if known.others:
        types = " and ".join(known.others[:3])
        return (
            f"has no ssh-ed25519 key of {known.host}, only {types}:"
            f" 'ssh -o UpdateHostKeys=yes {known.host}' lets ssh learn it"
        )
    if known.authority:
        return f"names only a certificate authority for {known.host}, which says nothing of its own key: use --key"
    return f"knows no host {known.host}: say under which name with --host, or compare the key with --key"


def pick(requests: Sequence[EnrollView], wanted: Wanted, fleet: str, source: str = "") -> EnrollView:
    """Choose the request of a name that shows one of the wanted keys; `source` says who knows those.

    Raises: UserError when nobody asks under the name or with the key, Untrusted when `source` knows another key.
    """
    named = [request for request in requests if request.name == wanted.name]
    for request in named:
        check_request(request, fleet)
    if not named:
        raise UserError(f"no device asks under the name {wanted.name!r}; see 'nixfleet enroll list'")
    if wanted.keys is None:
        if len(named) > 1:
            raise UserError(f"{len(named)} devices ask under the name {wanted.name!r}; say which with --key SHA256:…")
        return named[0]
    fitting = [request for request in named if request.fingerprint in wanted.keys]
    if len(fitting) > 1:
        raise UserError(
            f"{len(fitting)} devices ask as {wanted.name!r} with that key; 'nixfleet enroll drop' the others"
        )
    if fitting:
        return fitting[0]
    if source:
        shown = " and ".join(request.fingerprint for request in named[:3])
        raise Untrusted(
            f"{wanted.name} shows {shown}, but {source} has {' and '.join(sorted(wanted.keys)[:3])}:"
            " it is another machine, or has a key of its own; 'nixfleet agent status' shows it on the device"
        )
    raise UserError(f"no device asks under the name {wanted.name!r} with that key; see 'nixfleet enroll list'")
