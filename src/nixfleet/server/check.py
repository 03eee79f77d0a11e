"""Check a coordinator's data folder: keys, schema, the whole log, the daily backups; changes nothing.

It may run beside a coordinator that serves. It must never call a folder sound on the word of what is in it alone: the
log is replayed, and held against the keys and the newest checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nixfleet.errors import NixfleetError, UserError
from nixfleet.server.coordinator.backups import backup_fault, last_backup
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.logkeys import LogKeys
from nixfleet.server.coordinator.releases import Releases
from nixfleet.server.coordinator.restoring import Restoring
from nixfleet.server.settings import CACHE_KEY, ServerSettings
from nixfleet.server.store import Store
from nixfleet.trust.narinfo import CacheKey


@dataclass(frozen=True, slots=True)
class Checked:
    """What one check found; `error` is what was wrong."""

    what: str
    verdict: Literal["ok", "warning", "wrong"]
    text: str
    error: NixfleetError | None = None


async def check(settings: ServerSettings, wall_s: Callable[[], int]) -> list[Checked]:
    """Check one thing after the other, as far as each allows the next."""
    found = []
    try:
        log_keys, cache_key = LogKeys.read(settings), _cache_key(settings)
        found.append(Checked("keys", "ok", "the log key and the cache key can be read"))
        settings.check_database()
    except NixfleetError as error:
        return [*found, Checked("keys", "wrong", str(error), error)]
    store = Store(settings.url())
    try:
        held, newest = await store.revisions()
        found.append(_schema(held, newest))
        if held == newest:
            found += await _log(store, log_keys, cache_key, wall_s)
    except NixfleetError as error:
        found.append(Checked("log", "wrong", str(error), error))
    finally:
        await store.close()
    return [*found, *_backups(settings, wall_s())]


def _cache_key(settings: ServerSettings) -> CacheKey:
    path = settings.data_dir / CACHE_KEY
    try:
        return CacheKey.parse(path.read_text())
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}; bring it back from a backup") from error


def _schema(held: str | None, newest: str) -> Checked:
    if held == newest:
        return Checked("schema", "ok", f"{held}, the newest")
    if held is None or held < newest:
        return Checked("schema", "warning", f"{held or 'none'}: the next start of the coordinator makes it {newest}")
    text = f"the database has schema {held}, which this nixfleet does not know: use the newer program"
    return Checked("schema", "wrong", text, UserError(text))


async def _log(store: Store, log_keys: LogKeys, cache_key: CacheKey, wall_s: Callable[[], int]) -> list[Checked]:
    log = LogKeeper(store, log_keys, wall_s)
    await log.load()
    found = [Checked("log", "ok", f"{log.size} entries replay, and are those that were appended")]
    if cache_key.public not in {cache.key for cache in log.root_statement().caches}:
        text = "the root names another key than cache.key for the built-in cache: devices take nothing from it"
        found.append(Checked("cache", "warning", text))
    releases = Releases(store, log)
    restoring = Restoring(store, log, releases, wall_s)
    await restoring.load_only()
    if why := restoring.why():
        found.append(Checked("whole", "warning", why))
    await releases.look()
    if releases.lacks:
        text = f"the device lines of {len(releases.lacks)} release(s) lack: 'nixfleet log restore' where they were made"
        found.append(Checked("lines", "warning", text))
    return found


def _backups(settings: ServerSettings, now: int) -> list[Checked]:
    if fault := backup_fault(settings.data_dir, now):
        return [Checked("backup", "wrong", fault, UserError(fault))]
    last = last_backup(settings.data_dir)
    if last is None:
        return [Checked("backup", "warning", "no daily backup is made here: set --backup-dir")]
    return [Checked("backup", "ok", f"{last.file} is {max(0, now - last.at) // 3_600} hours old")]
