"""Root versions: the next one built from wishes, the difference in words, who has signed it, and who has not.

It must never let a version be signed that would leave nobody able to act for the root; what the replay would void
is refused here in words, before anybody is asked for a touch.
"""

from dataclasses import dataclass

from nixfleet.client.acts import Head
from nixfleet.client.admin import Act, Acted, Admin
from nixfleet.errors import Conflict, Refused, UserError
from nixfleet.model.ids import PROTOCOL, Fingerprint
from nixfleet.model.statements import CacheRef, LogKey, Principal, Root, Rule
from nixfleet.model.text import counted
from nixfleet.trust import fields
from nixfleet.trust.replay import State
from nixfleet.trust.replay.state import keys_of
from nixfleet.trust.rootwords import differences, live_keys, names


@dataclass(frozen=True, slots=True, kw_only=True)
class RootWishes:
    """What a person wants of the next root version; what is not named stays as it is."""

    add_principals: tuple[Principal, ...] = ()
    remove_principals: tuple[str, ...] = ()
    add_keys: tuple[tuple[str, str], ...] = ()
    """Principal and key text."""
    remove_keys: tuple[str, ...] = ()
    """Fingerprints."""
    threshold: int | None = None
    urls: tuple[str, ...] = ()
    """All addresses of the new version; none keeps those of the old one."""
    add_caches: tuple[CacheRef, ...] = ()
    remove_caches: tuple[str, ...] = ()
    add_rules: tuple[Rule, ...] = ()
    remove_rules: tuple[int, ...] = ()
    """By place, from 1."""
    protocol: int | None = None
    log_key: str = ""
    """The text of the key that signs the log from then on; the coordinator has to hold it."""


def next_root(head: Head, state: State, wishes: RootWishes) -> Root:
    """Build the version after the root in force. Raises: Refused, UserError that say in words what cannot be."""
    old = in_force(state)
    if head.by not in state.root_keys:
        raise Refused(
            f"only a root principal proposes a new root: {head.by} is no key of {names(state.root_keys.values())}"
        )
    principals = _principals(state, old, wishes)
    new = Root(
        **head.fields(),
        version=old.version + 1,
        protocol=_protocol(old, wishes.protocol),
        urls=wishes.urls or old.urls,
        principals=principals,
        threshold=old.threshold if wishes.threshold is None else wishes.threshold,
        log=LogKey(key=wishes.log_key or old.log.key, epoch=old.log.epoch),
        caches=_caches(old, wishes),
        rules=_rules(old, wishes),
    )
    if not differences(old, new):
        raise UserError("nothing would change; say what does, for example --add-principal NAME=FILE.pub")
    fault = _lock_out(state, new) or fields.fault_of(new)
    if fault:
        raise UserError(f"this root cannot be: {fault}")
    return new


def in_force(state: State) -> Root:
    """Give the root in force. Raises: UserError while root 1 waits for co-signatures."""
    if state.root is None:
        raise UserError("root 1 still waits for co-signatures: 'nixfleet access root sign'")
    return state.root


def _principals(state: State, old: Root, wishes: RootWishes) -> tuple[Principal, ...]:
    keys = {one.name: list(one.keys) for one in old.principals}
    for name in wishes.remove_principals:
        if keys.pop(name, None) is None:
            raise UserError(f"there is no root principal {name!r}; there are {names(keys)}")
    for one in wishes.add_principals:
        if one.name in keys:
            raise UserError(f"{one.name} is a root principal already; a further key comes by --add-key {one.name}=KEY")
        keys[one.name] = list(one.keys)
    for name, text in wishes.add_keys:
        if name not in keys:
            raise UserError(f"there is no root principal {name!r}; a new one comes by --add-principal {name}=KEY")
        keys[name].append(text)
    for fingerprint in wishes.remove_keys:
        holder = next((name for name, texts in keys.items() for text in texts if _is(text, fingerprint)), None)
        if holder is None:
            raise UserError(f"{fingerprint} is no root key; 'nixfleet access root show' lists them")
        keys[holder] = [text for text in keys[holder] if not _is(text, fingerprint)]
    _check_keys(state, old, keys)
    return tuple(Principal(name=name, keys=tuple(texts)) for name, texts in keys.items())


def _is(text: str, fingerprint: str) -> bool:
    return fields.fingerprint(text) == fingerprint


def _check_keys(state: State, old: Root, keys: dict[str, list[str]]) -> None:
    """Check that each principal has a key, and each new key is of use to one. Raises: UserError."""
    holder: dict[Fingerprint, str] = {}
    for name, texts in keys.items():
        if not texts:
            raise UserError(f"{name} would have no key: add one with --add-key, or --remove-principal {name}")
        for text in texts:
            key = fields.fingerprint(text)
            if key in holder:
                raise UserError(f"the key {key} is {holder[key]}'s already; each key is one principal's, once")
            if key in state.revoked_keys and key not in keys_of(old):
                raise UserError(f"the key {key} is revoked, for ever: {name} needs another one")
            holder[key] = name
    if not keys:
        raise UserError("a root needs a principal: nobody could act for it")


def _protocol(old: Root, wanted: int | None) -> int:
    if wanted is None:
        return old.protocol
    if wanted < old.protocol:
        raise UserError(f"the protocol never goes back: it is {old.protocol}")
    if wanted > PROTOCOL:
        raise UserError(f"this nixfleet follows protocol {PROTOCOL}, not {wanted}: update it first")
    return wanted


def _caches(old: Root, wishes: RootWishes) -> tuple[CacheRef, ...]:
    for url in wishes.remove_caches:
        if all(cache.url != url for cache in old.caches):
            raise UserError(f"the root names no cache {url}; it names {names(cache.url for cache in old.caches)}")
    kept = [cache for cache in old.caches if cache.url not in wishes.remove_caches]
    for cache in wishes.add_caches:
        if cache in kept:
            raise UserError(f"the root names the cache {cache.url} with this key already")
        kept.append(cache)
    return tuple(kept)


def _rules(old: Root, wishes: RootWishes) -> tuple[Rule, ...]:
    for place in wishes.remove_rules:
        if not 1 <= place <= len(old.rules):
            raise UserError(f"there is no rule {place}: the root has {counted(len(old.rules), 'rule')}")
    kept = tuple(rule for place, rule in enumerate(old.rules, start=1) if place not in wishes.remove_rules)
    return kept + wishes.add_rules


def _lock_out(state: State, new: Root) -> str:
    """Say why nobody, or nobody who means it, could act for a root, or nothing."""
    live = live_keys(state, new)
    if len(live) < new.threshold:
        have = f"it would have {len(live)} ({names(live) or 'none'})"
        return f"a threshold of {new.threshold} needs {new.threshold} principals with a key that is not revoked, {have}"
    if new.rules and new.threshold == 1:
        return (
            "with a threshold of 1 whoever is bound by its rules could lift them alone; add --threshold 2, and"
            " principals to sign with"
        )
    return ""


async def propose(admin: Admin, wishes: RootWishes, shown: Root, *, note: str | None = None) -> Acted:
    """Sign and append the next root version, which takes effect when the thresholds of old and new have signed.

    `shown` is what the person has seen. Raises: Conflict when another version came in force meanwhile.
    """

    def build(head: Head, state: State) -> list[Act]:
        made = next_root(head, state, wishes)
        if made.version != shown.version:
            raise Conflict(f"root {made.version - 1} came in force meanwhile: look at the difference again")
        return [Act(made)]

    (acted,) = await admin.act(build, note=note)
    return acted
