"""What ``nixfleet access root update`` can be told, read into wishes; each error names the word that is wrong."""

import functools
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from nixfleet.cli.keys import read_key, read_named_key
from nixfleet.cli.options import Count
from nixfleet.client.roots import RootWishes
from nixfleet.errors import UserError
from nixfleet.model.ids import CACHE_KEY, CACHE_URL
from nixfleet.model.ruletext import parse_rule
from nixfleet.model.statements import CacheRef, Principal
from nixfleet.model.typed import check_principal, checked_fingerprint, checked_url

C = TypeVar("C", bound=Callable[..., Any])

_CACHE: Final = re.compile(r"(.*)=([A-Za-z0-9._-]{1,64}:[A-Za-z0-9+/]{43}=)", re.DOTALL)

OPTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "added": click.option(
        "--add-principal", "added", multiple=True, metavar="NAME=KEY|FILE.pub", help="A further person or CI."
    ),
    "removed": click.option(
        "--remove-principal", "removed", multiple=True, metavar="NAME", help="Let one go, with all keys."
    ),
    "keys": click.option(
        "--add-key", "keys", multiple=True, metavar="NAME=KEY|FILE.pub", help="A further key of a principal."
    ),
    "lost": click.option("--remove-key", "lost", multiple=True, metavar="SHA256:…", help="Take one key away."),
    "threshold": click.option("--threshold", type=Count(1, 64), metavar="N", help="How many principals have to sign."),
    "urls": click.option(
        "--url", "urls", multiple=True, metavar="URL", help="How devices reach the coordinator; replaces them all."
    ),
    "caches": click.option(
        "--cache", "caches", multiple=True, metavar="URL=KEY", help="A further binary cache and its public key."
    ),
    "stale": click.option(
        "--remove-cache", "stale", multiple=True, metavar="URL", help="Let no device use a cache any more."
    ),
    "rules": click.option(
        "--rule", "rules", multiple=True, metavar="RULE", help="As 'env=prod: deploy approvals=2 note soak=1h'."
    ),
    "dropped": click.option(
        "--remove-rule", "dropped", multiple=True, type=Count(1, 64), metavar="N", help="By its number in show."
    ),
    "log_key": click.option(
        "--log-key", metavar="KEY|FILE.pub", help="What signs the log from now on; the coordinator must hold it."
    ),
    "protocol": click.option(
        "--protocol", type=Count(1, 1_000), metavar="N", help="What every device can replay by now."
    ),
}


def root_options(function: C) -> C:
    """Give a command the options of a new root version, read into its argument `wishes`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        said = {name: kwargs.pop(name) for name in OPTIONS}
        return function(*args, **kwargs, wishes=read_wishes(said))

    decorated: Any = run
    for option in reversed(OPTIONS.values()):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # click's decorators give back what they got


def read_wishes(said: dict[str, Any]) -> RootWishes:
    """Read the options of ``root update``. Raises: UserError that names the word that is wrong."""
    return RootWishes(
        add_principals=tuple(Principal(name=name, keys=(key,)) for name, key in map(_named, said["added"])),
        remove_principals=said["removed"],
        add_keys=tuple(map(_named, said["keys"])),
        remove_keys=tuple(map(checked_fingerprint, said["lost"])),
        threshold=said["threshold"],
        urls=tuple(map(checked_url, said["urls"])),
        add_caches=tuple(map(_cache, said["caches"])),
        remove_caches=said["stale"],
        add_rules=tuple(map(parse_rule, said["rules"])),
        remove_rules=said["dropped"],
        protocol=said["protocol"],
        log_key=read_key(said["log_key"]).text if said["log_key"] else "",
    )


def _named(text: str) -> tuple[str, str]:
    name, key = read_named_key(text)
    check_principal(name)
    return name, key.text


def _cache(text: str) -> CacheRef:
    found = _CACHE.fullmatch(text)
    if not found or not re.fullmatch(CACHE_URL, found[1]) or not re.fullmatch(CACHE_KEY, found[2]):
        raise UserError(f"{text!r} is no URL=KEY of a cache; write it like https://cache.example.org=name-1:BASE64=")
    return CacheRef(url=found[1], key=found[2])
