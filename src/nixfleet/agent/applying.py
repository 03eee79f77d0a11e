"""``nixfleet agent apply``: an update out of a file, on a device that reaches nobody.

The bundle answers in place of a coordinator, and all else is as over the network: the same mirror, replay, decision,
machine and guard. Root at the device stands for the coordinator's pacing, and for no signature (docs/adr/0016). It must
never send anything, nor let a file pass for contact with a coordinator.
"""

import logging
import shutil
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec

from nixfleet.agent.agent import Agent
from nixfleet.agent.machine import BEFORE_SWITCH, ENDED
from nixfleet.agent.member import BUNDLE, Parts
from nixfleet.agent.update import State, Update
from nixfleet.client import receipt as receipts
from nixfleet.client.api import REPORTS, Client
from nixfleet.client.bundle import Bundle, Head, read_head, unpack
from nixfleet.client.faults import Unknown
from nixfleet.client.mirror import claimed_size
from nixfleet.client.receipt import ReceiptHead
from nixfleet.client.transport import Call, Transport
from nixfleet.errors import NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.ids import store_name
from nixfleet.model.wire import Entries, Signed, Sync

log = logging.getLogger("nixfleet.agent")

_BATCH: Final = 1_000
_TAKEN: Final = b"{}"
T = TypeVar("T")


class ReceiptFile:
    """The receipt that grows as the device reports; what is there already of this device stays."""

    def __init__(self, path: Path, head: ReceiptHead) -> None:
        """Begin, or go on. Raises: UserError when it cannot be written, or the file is anything else."""
        self.path, self._head = path, head
        held = receipts.read(path) if path.exists() else None
        if held is not None and held.head != head:
            raise UserError(f"{path} is the receipt of another device; name another file with --receipt")
        self.reports = list(held.reports) if held is not None else []
        self._write()

    def add(self, signed: Signed) -> None:
        """Keep a report durably. Raises: UserError."""
        self.reports.append(signed)
        self._write()

    def _write(self) -> None:
        receipts.write(self.path, self._head, self.reports)


class BundleWay(Transport):
    """Answers an agent's requests from a bundle, and sends nothing."""

    def __init__(self, *_args: object, bundle: Bundle, device: str, receipt: ReceiptFile, **_rest: object) -> None:
        """Prepare; the addresses, keys and clocks of a way over the network have no use here."""
        self._bundle, self._device, self._receipt = bundle, device, receipt

    async def __aenter__(self) -> Self:
        """Open nothing."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close nothing."""

    @property
    def url(self) -> str:
        """What stands for the coordinator's address in errors."""
        return "the bundle"

    @property
    def skew_s(self) -> int:
        """Tell that no clock but the device's own is known."""
        return 0

    def use_key(self, key: object) -> None:
        """Sign no request."""

    async def send(self, call: Call) -> bytes:
        """Answer a request. Raises: Unknown for what is not in the bundle, Refused for what needs a coordinator."""
        asked = dict(call.query)
        match call.method, call.path.strip("/").split("/"):
            case "GET", ["v1", "sync"]:
                return msgspec.json.encode(sync_of(self._bundle, int(asked["size"])))
            case "GET", ["v1", "checkpoint"]:
                return self._bundle.checkpoint
            case "GET", ["v1", "log", "entries"]:
                start = int(asked["start"])
                entries = self._bundle.entries(start, min(int(asked["limit"]), _BATCH))
                return msgspec.json.encode(Entries(start=start, entries=tuple(entries)))
            case "GET", ["v1", "log", "payloads", digest]:
                return _found(self._bundle.payload(digest), "this payload")
            case "GET", ["v1", "rollouts", rollout, "line"]:
                line = self._bundle.line(rollout, self._device)
                return msgspec.json.encode(_found(line, f"this device's line of rollout {rollout[:12]}"))
            case "POST", ["v1", "progress"]:
                return _TAKEN
            case "POST", _ if call.path == REPORTS:
                self._receipt.add(msgspec.json.decode(call.body, type=Signed))
                return _TAKEN
            case "POST", ["v1", "log" | "enroll"]:
                raise Refused("the log in the bundle does not have this device: enroll it, and export another bundle")
            case _:
                raise Unreachable("a bundle answers no such question; a coordinator does")

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 - as a way over the network
        """Stream nothing. Raises: Unreachable."""
        raise Unreachable("a bundle has no events")
        yield b""


def sync_of(bundle: Bundle, size: int) -> Sync:
    """Answer what is new since a log of so many entries."""
    entries = tuple(bundle.entries(size, _BATCH))
    more = size + len(entries) < len(bundle.offsets)
    return Sync(checkpoint=bundle.checkpoint, start=size, entries=entries, more=more)


def _found(value: T | None, what: str) -> T:
    if value is None:
        raise Unknown(f"the bundle does not have {what}")
    return value


async def apply(parts: Parts, path: Path, receipt: Path | None) -> str:
    """Apply a bundle to this device and write the receipt; gives a sentence that says what came of it.

    Raises: UserError, Untrusted, Refused, and NixfleetError for an update that did not confirm.
    """
    identity = parts.identity
    _check_free(parts.journal.state)
    check_head(parts, read_head(path))
    kept = ReceiptFile(
        receipt or path.with_name(f"{path.name}.{identity.device[:8]}.receipt"),
        ReceiptHead(fleet=identity.fleet, device=identity.device),
    )
    folder = Path(parts.settings.state_dir) / BUNDLE
    try:
        bundle = unpack(path, folder, partial(check_head, parts))
        _check_newer(parts, bundle)
        _take_over(parts, bundle)
        way = partial(BundleWay, bundle=bundle, device=identity.device, receipt=kept)
        make_client: Callable[..., Client] = partial(Client, make_way=way)
        agent = Agent(msgspec.structs.replace(parts, make_client=make_client, by_hand=bundle.cache_url, last_good=None))
        before = parts.journal.state.update
        await agent.run_once()
        log.info("%s is the receipt, for 'nixfleet bundle import'", kept.path)
        return _came_to(before, agent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_head(parts: Parts, head: Head) -> None:
    """Refuse early what says that it is for somebody else; what lies here, the log finds out. Raises: Untrusted."""
    identity = parts.identity
    if head.fleet != identity.fleet:
        raise Untrusted(f"the bundle is of fleet {head.fleet[:12]}, and this device belongs to {identity.fleet[:12]}")
    if identity.device not in {one.device for one in head.devices}:
        names = ", ".join(one.name for one in head.devices[:3]) or "no device"
        raise Untrusted(f"the bundle is for {names}, and not for this device ({identity.device}); export one for it")


def _check_free(state: State) -> None:
    """Let an update that has begun to change the device be ended by whoever began it. Raises: UserError."""
    update = state.update
    if update is None or update.offer.by_hand or update.phase in {*ENDED, *BEFORE_SWITCH}:
        return
    raise UserError(
        f"an update is under way ({update.phase.value}): start the agent, and let it bring that one to its end first"
    )


def _check_newer(parts: Parts, bundle: Bundle) -> None:
    """Refuse a log that this device is ahead of: what was signed since might say otherwise. Raises: Untrusted."""
    held, shown = parts.mirror.size, claimed_size(bundle.checkpoint)
    if shown < held:
        raise Untrusted(
            f"the bundle has the log up to entry {shown}, and this device knows {held}: it is too old, export another"
        )


def _take_over(parts: Parts, bundle: Bundle) -> None:
    """Let what was begun over the network, and has changed nothing yet, go on without one, once the log holds."""
    state = parts.journal.state
    update = state.update
    if update is None or update.phase not in BEFORE_SWITCH or update.offer.by_hand:
        return
    try:
        while parts.mirror.take(sync_of(bundle, parts.mirror.next_index)) is None:
            pass
    except Untrusted as error:
        log.debug("the update is left as it is: %s", error)  # and the agent finds out, too
        return
    offer = msgspec.structs.replace(update.offer, by_hand=True, contact="none")
    parts.journal.write(msgspec.structs.replace(state, update=msgspec.structs.replace(update, offer=offer)))


def _came_to(before: Update | None, agent: Agent) -> str:
    """Say what the update came to. Raises: Untrusted, NixfleetError when it did not confirm, or nothing began."""
    update = agent.service.state.update
    done_before = before is not None and before.phase in ENDED
    if update is None or (update == before and done_before):
        if agent.desk.waits:
            raise NixfleetError(f"nothing is applied: {agent.desk.waits}")
        return "there is nothing to apply: the log in the bundle wants no other system of this device"
    name = store_name(update.offer.path)
    match update.outcome:
        case Outcome.CONFIRMED:
            return f"{name} is confirmed{f': {update.reason}' if update.reason else ''}"
        case None if update.phase is Phase.REBOOT_PENDING:
            return f"{name} is set for the next boot, and {update.reason}: reboot, and apply again for the receipt"
        case None:
            raise NixfleetError(f"{name} is not applied yet: {update.reason or agent.desk.waits or update.phase.value}")
        case _:
            error = Untrusted if update.cause is Cause.UNTRUSTED else NixfleetError
            raise error(f"{name} {update.outcome.value}: {update.reason}")
