"""Rules of a root that ask for more approvals than there are people to give them, in words.

Pure. It must never say so of a rule under which some act could get its approvals from those who stand in the log.
"""

from collections.abc import Iterator
from itertools import chain

from nixfleet.model.ids import Fingerprint
from nixfleet.model.ruletext import rule_text
from nixfleet.model.statements import Root, Rule
from nixfleet.model.text import counted
from nixfleet.trust import fields
from nixfleet.trust.replay import GrantRecord, State
from nixfleet.trust.replay.links import Over
from nixfleet.trust.replay.rights import Allowed, alive, all_names_of, involved_in, root_names_of
from nixfleet.trust.replay.state import keys_of

Names = frozenset[str]


def unmeetable(state: State, root: Root, now: int) -> tuple[str, ...]:
    """Say of each rule why nothing, or nothing by some people, could get the approvals that it asks for."""
    found = (_fault(state, root, rule, now) for rule in root.rules if rule.approvals)
    return tuple(
        f"rule {rule_text(rule)}: {fault}"
        for rule, fault in zip((rule for rule in root.rules if rule.approvals), found, strict=True)
        if fault
    )


def _fault(state: State, root: Root, rule: Rule, now: int) -> str:
    approvers = _approvers(state, rule, now)
    people = ", ".join(sorted({min(names) for names in approvers})) or "nobody"
    ways = "grant 'approve' to others (nixfleet access grant NAME --action approve), or ask for fewer"
    if len(approvers) < rule.approvals:
        have = f"{counted(rule.approvals, 'approval')} asked for, and {people} may approve there"
        return f"nothing under it can take effect: {have}; {ways}"
    stuck: dict[str, None] = {}
    free = False
    for name, involved in _submitters(state, root, rule, now):
        if sum(1 for names in approvers if not names & involved) < rule.approvals:
            stuck[name] = None
        else:
            free = True
    if not stuck:
        return ""
    who = "nobody may submit under it" if not free else f"what {', '.join(stuck)} submit under it never takes effect"
    return f"{who}: {people} may approve there, and nobody what is their own; {ways}"


def _approvers(state: State, rule: Rule, now: int) -> list[Names]:
    """Give the people who may approve something that a rule touches, each by all their names."""
    people: list[Names] = []
    for record in _live(state, now):
        if "approve" not in record.statement.actions or not Over(select=record.statement.select).touches(rule.select):
            continue
        for key in _keys(state, record):
            names = all_names_of(state, key) | {record.principal}
            same = [one for one in people if one & names]
            people = [one for one in people if not one & names] + [names.union(*same)]
    return people


def _submitters(state: State, root: Root, rule: Rule, now: int) -> Iterator[tuple[str, Names]]:
    """Give who may submit something that a rule binds, and who may not approve that: themselves, and their issuers."""
    for key, name in keys_of(root).items():
        if key not in state.revoked_keys:
            yield name, root_names_of(state, key) | {name}
    for record in _live(state, now):
        bound = set(record.statement.actions) & set(rule.actions)
        if bound and Over(select=record.statement.select).touches(rule.select):
            for key in _keys(state, record):
                yield record.principal, involved_in(state, Allowed(record.links), key) | {record.principal}


def _live(state: State, now: int) -> list[GrantRecord]:
    """Give the grants that are in force, in the order of the log."""
    return [record for record in state.grants.values() if alive(state, record, now)]


def _keys(state: State, record: GrantRecord) -> list[Fingerprint]:
    """Give a grant's keys that are not revoked."""
    keys = chain(map(fields.fingerprint, record.statement.to.keys))
    return [key for key in keys if key not in state.revoked_keys]
