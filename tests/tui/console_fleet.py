"""A made-up fleet for the console's tests and pictures: fixed records and a fixed clock."""

import hashlib
import random
from collections.abc import Sequence

import msgspec

from nixfleet.model.device import Facts, Outcome, Phase
from nixfleet.model.views import (
    AccessView,
    DeviceView,
    EnrollView,
    EntryView,
    GrantView,
    PendingView,
    PrincipalView,
    ReleaseLineView,
    ReleaseView,
    RolloutView,
    RootView,
    RuleView,
    Transfer,
    WaveView,
)

NOW = 1_785_000_000
GIB = 2**30
MIB = 2**20


def digest(text: str) -> str:
    """Make a stable 64-digit hex id."""
    return hashlib.sha256(text.encode()).hexdigest()


def device_id(name: str) -> str:
    """Make a stable device id."""
    return digest(f"device {name}")[:32]


def fingerprint(name: str) -> str:
    """Make something that looks like a key's fingerprint."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    chance = random.Random(name)
    return "SHA256:" + "".join(chance.choice(letters) for _ in range(43))


def system(role: str, version: str) -> str:
    """Make a store path of a system."""
    letters = "0123456789abcdfghijklmnpqrsvwxyz"
    chance = random.Random(f"{role} {version}")
    return f"/nix/store/{''.join(chance.choice(letters) for _ in range(32))}-nixos-system-{role}-{version}"


OLD, NEW = "25.05.2219", "25.05.2304"
ROLLOUT = digest("rollout kiosk-2304")
HALTED = digest("rollout web-2304")
DONE = digest("rollout nas-2219")
RELEASE = digest("release kiosk-2304")
WEB_RELEASE = digest("release web-2304")
NAS_RELEASE = digest("release nas-2219")
MODELS = {"kiosk": "Raspberry Pi 4 Model B", "nas": "HPE ProLiant MicroServer Gen10", "web": "KVM virtual machine"}
SIGNATURE = "-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg\n-----END SSH SIGNATURE-----"
WEB_LOG = (
    "activating the configuration...",
    "setting up /etc...",
    "reloading user units for root...",
    "restarting the following units: nginx.service, web-api.service",
    "warning: the following units failed: web-api.service",
    "web-api.service: Main process exited, code=exited, status=1/FAILURE",
    "web-api[2214]: cannot open /var/lib/web-api/schema.sql: No such file or directory",
    "web-api.service: Failed with result 'exit-code'.",
    "check web-api: newly failed unit web-api.service",
    "going back to nixos-system-web-25.05.2219",
    "the previous system runs again",
)
KIOSK_LOG = (
    "stopping the following units: cage-tty1.service",
    "activating the configuration...",
    "setting up /etc...",
    "starting the following units: cage-tty1.service",
)


def facts(role: str, name: str) -> Facts:
    """Make what a device of a role tells of itself."""
    chance = random.Random(name)
    memory = {"kiosk": 4, "nas": 16, "web": 8}[role] * GIB
    store = {"kiosk": 29, "nas": 118, "web": 59}[role] * GIB
    return Facts(
        hostname=name,
        model=MODELS[role],
        architecture="aarch64" if role == "kiosk" else "x86_64",
        cpus=4 if role != "nas" else 8,
        memory_bytes=memory,
        nixos_version="25.05",
        kernel="6.12.30",
        nix_version="2.28.3",
        agent_version="0.1.0",
        machine_id=device_id(name),
        boot_fallback="none" if role == "kiosk" else "boot counting",
        store_free_bytes=store // 100 * chance.randint(22, 71),
        store_bytes=store,
        addresses=(f"10.{20 if role == 'web' else 31}.4.{chance.randint(10, 250)}",),
        timezone="Europe/Oslo" if "oslo" in name else "Europe/Berlin",
    )


def device(name: str, role: str, site: str, env: str = "prod") -> DeviceView:
    """Make a device that is fine and up to date."""
    version = {"kiosk": NEW, "nas": OLD, "web": OLD}[role]
    path = system(role, version)
    chance = random.Random(f"{name} {role}")
    return DeviceView(
        id=device_id(name),
        name=name,
        key=fingerprint(name),
        tags={"site": site, "role": role, "env": env},
        state="active",
        online=True,
        link="direct",
        seen_at=NOW - chance.randint(1, 40),
        phase=Phase.CONFIRMED,
        outcome=Outcome.CONFIRMED,
        system=path,
        booted=path,
        previous=system(role, "25.05.1987"),
        intended=path,
        release=f"{role}-{version.rpartition('.')[2]}",
        rollout=DONE if role == "nas" else "",
        healthy=True,
        log_size=42,
        log_root=digest("root"),
        log_state="ok",
        protocol=1,
        facts=facts(role, name),
        enrolled_at=NOW - chance.randint(20, 300) * 86_400,
        reported_at=NOW - chance.randint(60, 3_000),
    )


def fleet_devices() -> list[DeviceView]:
    """Make forty devices in two sites, some of which need somebody."""
    made = {
        f"{role}-{site}-{number:02}": device(f"{role}-{site}-{number:02}", role, site)
        for site, role, count in (
            ("berlin", "kiosk", 14),
            ("oslo", "kiosk", 8),
            ("berlin", "nas", 4),
            ("oslo", "nas", 2),
            ("berlin", "web", 8),
            ("oslo", "web", 4),
        )
        for number in range(1, count + 1)
    }

    def change(name: str, **changes: object) -> None:
        made[name] = msgspec.structs.replace(made[name], **changes)

    new_kiosk, old_kiosk = system("kiosk", NEW), system("kiosk", OLD)
    done = {"kiosk-berlin-01", "kiosk-berlin-02", "kiosk-oslo-03"}
    for name, record in list(made.items()):
        if record.tags["role"] != "kiosk":
            continue
        wave = 1 if name == "kiosk-berlin-01" else 2 if name in done or name[-2:] in {"04", "05", "07"} else 3
        change(name, rollout=ROLLOUT, wave=wave)
        if name not in done:
            change(
                name,
                system=old_kiosk,
                booted=old_kiosk,
                outcome=None,
                phase=Phase.IDLE,
                waits="wave 3 of 3 waits: wave 2 soaks once its devices are done" if wave == 3 else "",
                release="kiosk-2219",
                intended=new_kiosk,
            )
    total = 1_873 * MIB
    for name, share, rate in (("kiosk-berlin-04", 63, 11), ("kiosk-berlin-05", 41, 9), ("kiosk-oslo-07", 8, 2)):
        change(
            name,
            phase=Phase.FETCHING,
            waits="",
            transfer=Transfer(done_bytes=total * share // 100, total_bytes=total, rate_bytes_s=rate * MIB),
        )
    change("kiosk-oslo-05", phase=Phase.ACTIVATING, waits="", lines=KIOSK_LOG)
    change("kiosk-berlin-07", phase=Phase.CHECKING, waits="")
    change("kiosk-oslo-04", online=False, seen_at=NOW - 3 * 3_600 - 120, log_size=40, log_state="behind")
    change(
        "web-berlin-01",
        rollout=HALTED,
        wave=1,
        phase=Phase.REVERTED,
        outcome=Outcome.REVERTED,
        cause="health",
        reason="went back: web-api.service failed after the switch (exit status 1)",
        intended=system("web", NEW),
        lines=WEB_LOG,
        release="web-2219",
    )
    for name, record in list(made.items()):
        if record.tags["role"] == "web" and name != "web-berlin-01":
            change(name, rollout=HALTED, wave=2)
    change(
        "nas-berlin-02",
        phase=Phase.FAILED,
        outcome=Outcome.FAILED,
        cause="space",
        reason="the store lacks 2.1 GiB for the new system; nothing was changed",
        intended=system("nas", NEW),
    )
    change("web-oslo-03", system=system("web", "25.11.dirty"), phase=Phase.IDLE, outcome=None)
    change("nas-oslo-01", state="held", held_until=NOW + 5 * 86_400, phase=Phase.IDLE, outcome=None)
    change("web-berlin-06", online=False, seen_at=NOW - 6 * 86_400, log_size=31, log_state="behind")
    change("web-oslo-02", healthy=False, reason="check http://localhost:8080/health answers 503")
    change("nas-berlin-04", phase=Phase.REBOOT_PENDING, outcome=None, waits="set for the next boot; window opens 02:00")
    return list(made.values())


def fleet_rollouts() -> list[RolloutView]:
    """Make one under way, one halted by its canary, one finished, one cancelled."""

    def rollout(**fields: object) -> RolloutView:
        common = {"by": fingerprint("ops"), "principal": "ops", "soak_s": 300, "device_timeout_s": 3_600}
        return msgspec.convert({**common, **fields}, RolloutView)

    def wave(number: int, members: str, state: str, total: int, **counts: object) -> WaveView:
        fields = {"number": number, "members": members, "gate": "auto", "state": state, "total": total, **counts}
        return msgspec.convert(fields, WaveView)

    return [
        rollout(
            id=ROLLOUT,
            index=1_201,
            kind="deploy",
            release=RELEASE,
            release_name="kiosk-2304",
            at=NOW - 1_380,
            note="FLEET-311 browser update",
            state="running",
            eta_s=1_500,
            waits="wave 2 of 3 is under way: 2 of 7 confirmed, 4 under way, 1 offline for 3 hours",
            waves=(
                wave(1, "1", "passed", 1, confirmed=1, opened_at=NOW - 1_370, done_at=NOW - 1_010, passed_at=NOW - 700),
                wave(
                    2,
                    "10%",
                    "open",
                    7,
                    confirmed=2,
                    in_flight=4,
                    opened_at=NOW - 700,
                    eta_s=240,
                    download={"done_bytes": 90 << 20, "total_bytes": 400 << 20, "rate_bytes_s": 9 << 20},
                ),
                wave(3, "100%", "closed", 14, waits="waits for wave 2, then soaks 5 minutes"),
            ),
            total=22,
            confirmed=3,
            in_flight=4,
            max_in_flight=5,
            started_at=NOW - 1_370,
        ),
        rollout(
            id=HALTED,
            index=1_198,
            kind="deploy",
            release=WEB_RELEASE,
            release_name="web-2304",
            at=NOW - 5_400,
            state="halted",
            halted="halted: 1 of 1 devices of wave 1 failed (web-berlin-01 went back: web-api.service failed)",
            waves=(
                wave(1, "1", "open", 1, failed=1, opened_at=NOW - 5_390),
                wave(2, "50%", "closed", 5, waits="waits: the rollout is halted"),
                wave(3, "100%", "closed", 6, waits="waits: the rollout is halted"),
            ),
            total=12,
            failed=1,
            max_in_flight=3,
            started_at=NOW - 5_390,
        ),
        rollout(
            id=DONE,
            index=1_140,
            kind="deploy",
            release=NAS_RELEASE,
            release_name="nas-2219",
            at=NOW - 9 * 86_400,
            state="finished",
            standing=True,
            joiners=True,
            waves=(wave(1, "100%", "passed", 6, confirmed=5, failed=1, opened_at=NOW - 9 * 86_400),),
            total=6,
            confirmed=5,
            failed=1,
            max_in_flight=2,
            started_at=NOW - 8 * 86_400 - 7_320,
            finished_at=NOW - 8 * 86_400,
            principal="oncall",
            by=fingerprint("oncall"),
        ),
        rollout(
            id=digest("rollout kiosk-2299"),
            index=1_133,
            kind="deploy",
            release=digest("release kiosk-2299"),
            release_name="kiosk-2299",
            at=NOW - 12 * 86_400,
            state="cancelled",
            note="wrong branch",
            waves=(wave(1, "1", "open", 1), wave(2, "100%", "closed", 21)),
            total=22,
            max_in_flight=5,
        ),
    ]


def fleet_releases() -> list[ReleaseView]:
    """Make the releases that the rollouts bring."""

    def release(key: str, name: str, index: int, age_s: int, targets: int, rev: str) -> ReleaseView:
        return ReleaseView(
            id=key,
            index=index,
            name=name,
            by=fingerprint("release-ci"),
            principal="release-ci",
            at=NOW - age_s,
            targets=targets,
            source_url="https://git.acme.example/fleet",
            source_rev=rev * 8,
        )

    return [
        release(RELEASE, "kiosk-2304", 1_200, 1_500, 22, "4be10c"),
        release(WEB_RELEASE, "web-2304", 1_197, 5_700, 12, "9a0d7f"),
        release(NAS_RELEASE, "nas-2219", 1_139, 9 * 86_400 + 200, 6, "c01f2e"),
    ]


def release_with_lines(key: str, devices: Sequence[DeviceView]) -> ReleaseView:
    """Give a release its lines: each device of its role gets the new system."""
    release = next(release for release in fleet_releases() if release.id == key)
    role = release.name.partition("-")[0]
    lines = tuple(
        ReleaseLineView(
            device=device.id,
            name=device.name,
            path=system(role, NEW),
            system="x86_64-linux",
            digest=digest(role),
            nar_size=1_873 * MIB,
        )
        for device in devices
        if device.tags["role"] == role
    )
    return msgspec.structs.replace(release, lines=lines)


def fleet_requests() -> list[EnrollView]:
    """Make two devices that ask to be enrolled."""
    return [
        EnrollView(
            device=device_id("kiosk-oslo-09"),
            name="kiosk-oslo-09",
            key="ssh-ed25519 AAAA",
            fingerprint=fingerprint("kiosk-oslo-09"),
            tags={"site": "oslo", "role": "kiosk", "env": "prod"},
            facts=facts("kiosk", "kiosk-oslo-09"),
            asked_at=NOW - 260,
            seen_at=NOW - 20,
        ),
        EnrollView(
            device=device_id("nas-berlin-02 new"),
            name="nas-berlin-02",
            key="ssh-ed25519 AAAA",
            fingerprint=fingerprint("nas-berlin-02 new"),
            tags={"site": "berlin", "role": "nas"},
            facts=facts("nas", "nas-berlin-02"),
            asked_at=NOW - 7_300,
            seen_at=NOW - 65,
            reason="the name is taken by an active device: nixfleet enroll nas-berlin-02 --replace moves it",
        ),
    ]


def fleet_access() -> AccessView:
    """Make a root of two people, a tree of grants in every state, a token, and two things that wait."""
    day = 86_400

    def grant(name: str, actions: str, on: dict[str, tuple[str, ...]], days: int, **more: object) -> GrantView:
        fields = {
            "id": digest(f"grant {name}")[:32], "parent": "", "name": name, "keys": (fingerprint(name),),
            "actions": tuple(actions.split()), "select": on, "not_before": NOW - 40 * day,
            "not_after": NOW + days * day, "depth": 0, "max_devices": None, "max_uses": None, "uses": 0,
            "by": fingerprint("ops"), "by_name": "ops", "index": 3, "note": "", "state": "live", "why": "", **more,
        }  # fmt: skip
        return msgspec.convert(fields, GrantView)

    berlin: dict[str, tuple[str, ...]] = {"site": ("berlin",)}
    oncall = grant("oncall", "deploy rollback control grant", berlin, 158, depth=1, note="FLEET-201", index=2)
    below = {"parent": oncall.id, "by": fingerprint("oncall"), "by_name": "oncall"}
    return AccessView(
        root=RootView(
            version=3,
            protocol=1,
            threshold=2,
            epoch=0,
            log_key=fingerprint("log"),
            urls=("https://fleet.acme.example",),
            caches=("/cache",),
            principals=(
                PrincipalView(
                    name="ops", keys=(fingerprint("ops"), fingerprint("ops old")), revoked=(fingerprint("ops old"),)
                ),
                PrincipalView(name="security", keys=(fingerprint("security"),)),
                PrincipalView(name="founder", keys=(fingerprint("founder"),)),
            ),
            rules=(
                RuleView(
                    select={"env": ("prod",)}, actions=("deploy", "rollback"), approvals=1, note_required=True,
                    max_in_flight=5, min_soak_s=1_800,
                ),
            ),
        ),
        grants=(
            oncall,
            grant("oncall/night", "deploy", {"env": ("test",), **berlin}, 12, max_devices=4, **below),
            grant("oncall/trainee", "deploy", berlin, -3, state="expired", why="it ended 2026-07-22", **below),
            grant("release-ci", "release", {}, 158),
            grant("auditor", "", {}, 300),
            grant("contractor", "device enroll", {"site": ("oslo",)}, 20, state="revoked", why="it was revoked"),
            grant("token-5f3c1a20", "enroll", {"role": ("kiosk",), "site": ("oslo",)}, 5, max_uses=20, uses=7),
            grant("token-90bb41de", "enroll", {"role": ("nas",)}, 2, max_uses=4, uses=4, why="it is used up"),
        ),
        pending=(
            PendingView(
                digest=HALTED, type="rollout", subject="deploy web-2304 to role=web", by=fingerprint("oncall"),
                by_name="oncall", at=NOW - 3_000, index=38, note="FLEET-320", waits="1 more approval is needed",
                signed=("oncall",),
            ),
            PendingView(
                digest=digest("root 4"), type="root", subject="set root 4: ops, security, founder, 2 signatures",
                by=fingerprint("security"), by_name="security", at=NOW - 86_400, index=34, note="a second office key",
                waits="1 more root signature is needed", signed=("security",),
            ),
        ),
    )  # fmt: skip


def fleet_entries() -> list[EntryView]:
    """Make the end of a log, with two acts that have no effect."""
    rows: list[tuple[str, str, str, str, str, str]] = [
        ("root", "ops", "founded the fleet", "acme", "", ""),
        ("grant", "ops", "granted release to release-ci until 2027-01-01", "release-ci", "", ""),
        ("grant", "ops", "granted deploy, rollback, control to oncall on site=berlin", "oncall", "", ""),
        *(("device", "ops", f"enrolled {device.name}", device.name, "", "") for device in fleet_devices()[:30]),
        ("release", "release-ci", "published nas-2219 for 6 devices", "nas-2219", "", ""),
        ("rollout", "oncall", "deploys nas-2219 to role=nas", "nas-2219", "", "FLEET-288"),
        ("device", "ops", "holds nas-oslo-01 for 7 days", "nas-oslo-01", "", "disk replacement"),
        ("release", "release-ci", "published web-2304 for 12 devices", "web-2304", "", ""),
        ("rollout", "oncall", "deploys web-2304 to role=web", "web-2304", "void: no right to deploy on site=oslo", ""),
        ("rollout", "ops", "deploys web-2304 to role=web", "web-2304", "", ""),
        ("control", "", "pauses web-2304", "web-2304", "void: no key the log knows", ""),
        ("release", "release-ci", "published kiosk-2304 for 22 devices", "kiosk-2304", "", ""),
        ("rollout", "ops", "deploys kiosk-2304 to role=kiosk", "kiosk-2304", "", "FLEET-311 browser update"),
    ]
    return [
        EntryView(
            index=index,
            at=NOW - (len(rows) - index) * 5_400,
            type=kind,
            by=fingerprint(who or "stranger"),
            principal=who,
            what=what,
            subject=subject,
            verdict="void" if why else "valid",
            why=why.removeprefix("void: "),
            digest=digest(f"{index} {what}"),
            note=note,
        )
        for index, (kind, who, what, subject, why, note) in enumerate(rows)
    ]
