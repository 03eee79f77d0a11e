"""A root version in words: what it changes, and what about it may be regretted. Pure; it never judges."""

from collections.abc import Iterable, Sequence

from nixfleet.model.ids import Fingerprint
from nixfleet.model.ruletext import rule_text
from nixfleet.model.statements import Root
from nixfleet.trust import fields
from nixfleet.trust.replay import State
from nixfleet.trust.replay.state import keys_of


def names(several: Iterable[str]) -> str:
    """Write names one after the other, each once."""
    return ", ".join(dict.fromkeys(several))


def live_keys(state: State, root: Root) -> dict[str, tuple[Fingerprint, ...]]:
    """Give the keys of a root that are not revoked, by principal; who has none is left out."""
    live: dict[str, tuple[Fingerprint, ...]] = {}
    for key, name in keys_of(root).items():
        if key not in state.revoked_keys:
            live[name] = (*live.get(name, ()), key)
    return live


def warnings(state: State, new: Root) -> tuple[str, ...]:
    """Say what is allowed, and may be regretted, about a root."""
    live = live_keys(state, new)
    if sum(map(len, live.values())) == 1:
        add = f"nixfleet access root update --add-key {names(live)}=SECOND.pub"
        return (f"1 root key: if it is lost, so is the fleet's root; add a second one by '{add}'",)
    single = [name for name, keys in live.items() if len(keys) == 1]
    if len(live) > new.threshold or not single:
        return ()
    have = f"{names(single)} {'has' if len(single) == 1 else 'have'} a single key"
    return (f"all {len(live)} principals must sign, and {have}: if one is lost, so is the fleet's root",)


def differences(old: Root, new: Root) -> tuple[str, ...]:
    """Say in lines what a new version changes: ``+`` comes, ``-`` goes, ``~`` changes."""
    lines: list[str] = []
    before, after = {one.name: one for one in old.principals}, {one.name: one for one in new.principals}
    for name in dict.fromkeys((*before, *after)):
        had = [fields.fingerprint(text) for text in before[name].keys] if name in before else []
        has = [fields.fingerprint(text) for text in after[name].keys] if name in after else []
        what = "principal" if not had or not has else "key of"
        lines += [f"- {what} {name} {key}" for key in had if key not in has]
        lines += [f"+ {what} {name} {key}" for key in has if key not in had]
    lines += _changed("threshold", old.threshold, new.threshold)
    lines += _listed("url", old.urls, new.urls)
    if set(old.urls) == set(new.urls):
        lines += _changed("urls in the order", " ".join(old.urls), " ".join(new.urls))
    lines += _listed("cache", *([f"{cache.url} {cache.key}" for cache in root.caches] for root in (old, new)))
    lines += _listed("rule", *([rule_text(rule) for rule in root.rules] for root in (old, new)))
    lines += _changed("protocol", old.protocol, new.protocol)
    lines += _changed("log key", fields.fingerprint(old.log.key), fields.fingerprint(new.log.key))
    lines += _changed("epoch", old.log.epoch, new.log.epoch)
    return tuple(lines)


def _listed(what: str, old: Sequence[str], new: Sequence[str]) -> list[str]:
    return [f"- {what} {one}" for one in old if one not in new] + [f"+ {what} {one}" for one in new if one not in old]


def _changed(what: str, old: object, new: object) -> list[str]:
    return [] if old == new else [f"~ {what} {old} → {new}"]
