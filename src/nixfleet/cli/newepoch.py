"""The file of a root that begins the next epoch, on its way from hand to hand: read, judged, shown and signed.

Nobody serves the fleet meanwhile: it is judged on this machine's own verified copy of the log, and on nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Self

import click

from nixfleet.cli import output
from nixfleet.cli.clock import now
from nixfleet.cli.options import Globals, confirm
from nixfleet.cli.signing import signer_of
from nixfleet.client.mirror import Mirror
from nixfleet.config import choose_context, mirror_dir, read_bounded, write_atomic
from nixfleet.errors import Refused, Untrusted, UserError
from nixfleet.model.ids import Fingerprint, FleetId
from nixfleet.model.statements import LogState, Root
from nixfleet.model.text import clean, counted, utc
from nixfleet.trust import nextepoch, rootwords
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.nextepoch import EpochProposal, Judged
from nixfleet.trust.replay import State, replay
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import NAMESPACE_APPROVE, digest


@dataclass(frozen=True, slots=True)
class Keys:
    """The new log key and cache key, kept in a folder of their own until the root that names them is signed."""

    folder: Path
    log_key: SecretKey
    cache_key: str

    @classmethod
    def new(cls, folder: Path, name: str) -> Self:
        """Make keys; `name` is that of the cache key."""
        return cls(folder, SecretKey.generate(), CacheKey.generate(name).text)

    @property
    def cache_public(self) -> str:
        """The cache key's public half, as Nix writes it."""
        return CacheKey.parse(self.cache_key).public

    def write(self) -> None:
        """Keep them, for their owner alone. Raises: UserError."""
        write_atomic(self.folder / "log.key", self.log_key.to_openssh().encode())
        write_atomic(self.folder / "cache.key", f"{self.cache_key}\n".encode())


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """Where the keys of a proposal are kept."""

    folder: Path

    @classmethod
    def beside(cls, place: Path) -> Self:
        """Give the folder for the keys of a data folder that is to come."""
        return cls(place.with_name(f".{place.name}.next"))

    def check_free(self) -> None:
        """Check that no proposal is on its way. Raises: UserError."""
        if self.folder.exists():
            raise UserError(
                f"{self.folder} holds the keys of a proposal that goes round: complete that one with --signed FILE, or"
                " remove the folder to give it up"
            )

    def read(self) -> Keys:
        """Read them. Raises: UserError."""
        try:
            log_key = SecretKey.from_openssh((self.folder / "log.key").read_text())
            return Keys(self.folder, log_key, (self.folder / "cache.key").read_text().strip())
        except OSError as error:
            raise UserError(
                f"{error.filename}: {error.strerror or error}; a proposal is completed on the machine, and with the"
                " --data, where it was made"
            ) from error

    def forget(self) -> None:
        """Remove them: what was made has its own."""
        rmtree(self.folder, ignore_errors=True)


def read_file(file: Path) -> EpochProposal:
    """Read a proposal's file, bounded. Raises: UserError."""
    return nextepoch.read(read_bounded(file, nextepoch.FILE_BYTES), str(file))


def judged_on(state: State, proposal: EpochProposal, root: Root) -> Judged:
    """Judge its date and the signatures. Raises: Untrusted, which names the file's digest."""
    try:
        nextepoch.check_time(root, now())
        return nextepoch.judge(state, proposal, root)
    except Untrusted as error:
        raise Untrusted(f"the proposal {digest(proposal.payload)[:12]} is not to be signed: {error}") from error


def state_at(copy: Mirror, taken: LogState) -> State:
    """Give what the log said where the proposal takes it up. Raises: UserError, Untrusted."""
    if taken.size > copy.size:
        raise UserError(
            f"the copy of the log in {copy.folder} has {copy.size} of the {taken.size} entries that the proposal takes"
            " up: name a copy that has them all with --copy DIR ('nixfleet log mirror DIR' makes one)"
        )
    if copy.state.tree.root(taken.size).hex() != taken.root:
        raise Untrusted(f"the proposal takes up another log than the one in {copy.folder}: sign nothing of it")
    if taken.size == copy.size:
        return copy.state
    state = State(fleet=FleetId(copy.fleet))
    for index in range(taken.size):
        replay(state, index, copy.leaf(index), copy.payload(index))
    return state


def shown(root: Root, judged: Judged, *, err: bool = False) -> None:
    """Write what a proposal changes, and who has signed it."""
    taken = root.log.from_
    assert taken is not None
    click.echo(f"root {root.version} takes the log up after {counted(taken.size, 'entry')}, by {utc(root.at)}", err=err)
    if root.note:
        click.echo(clean(f"  note: {root.note}"), err=err)
    click.echo(f"  signed by {', '.join(judged.signed)}", err=err)


def sign_file(given: Globals, file: Path, folder: Path | None) -> None:
    """Sign a proposal where one is, with no coordinator. Raises: UserError, Refused, Untrusted."""
    name, context = choose_context(given.context, given.env)
    proposal = read_file(file)
    root, taken = nextepoch.root_of(proposal, context.fleet)
    copy = Mirror.open(folder or mirror_dir(context.fleet, given.env), context.fleet)
    state = state_at(copy, taken)
    judged = judged_on(state, proposal, root)
    signer = signer_of(given, context.key)
    if not given.json:
        shown(root, judged)
        assert state.root is not None
        for line in rootwords.differences(state.root, root):
            click.echo(clean(f"  {line}"))
    if beyond := copy.size - taken.size:
        lost = f"your copy of the log of {name} has {counted(beyond, 'entry')} more, which would be given up"
        click.echo(f"! {lost}: propose it from your copy, unless you know why not", err=True)
    if why := judged.why_not(Fingerprint(signer.key.fingerprint)):
        raise Refused(f"root {root.version} is not signed: {why}")
    confirm(given, f"Sign root {root.version}, exactly as shown?")
    signed = nextepoch.signed_too(proposal, [signer.sign(NAMESPACE_APPROVE, proposal.payload)])
    after = judged_on(state, signed, root)
    write_atomic(file, nextepoch.write(signed), mode=0o644)
    text = f"{file} has all signatures; who proposed it runs: nixfleet log restore --new-log-key --signed {file.name}"
    if after.waits:
        text = f"{file} is signed by {', '.join(after.signed)}, and waits for {after.waits}"
    record = {"file": str(file), "version": root.version, "digest": digest(proposal.payload), "waits": after.waits}
    output.done(record, text, json=given.json, quiet=given.quiet)
