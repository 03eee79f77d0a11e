"""What each mutating action would do to what is chosen: why it cannot, what to confirm, and the acts that do it.

Pure: it reads the store and builds a plan; nothing happens before `actions` performs it.
"""

import shlex
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

import msgspec

from nixfleet.model.statements import Action, Verb
from nixfleet.model.text import clean, counted
from nixfleet.model.views import DeviceView, EnrollView, RolloutView
from nixfleet.tui.confirm import Confirm, question
from nixfleet.tui.ports import Acts, Deployment, Identity
from nixfleet.tui.store import Store
from nixfleet.tui.view.devices import when
from nixfleet.tui.view.records import fingerprint_rows
from nixfleet.tui.view.rollouts import is_open, title
from nixfleet.tui.view.text import Line, Span

HOLD_S: Final = 7 * 86_400


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What a screen has chosen, and the state of things around it."""

    store: Store
    identity: Identity
    now: int
    live: bool = True
    devices: tuple[str, ...] = ()
    rollout: str = ""
    requests: tuple[str, ...] = ()
    release: str = ""

    def device_views(self) -> list[DeviceView]:
        """Give the chosen devices that are still there."""
        return [found for key in self.devices if (found := self.store.devices.get(key)) is not None]

    def rollout_view(self) -> RolloutView | None:
        """Give the chosen rollout, or the one the only chosen device is in."""
        if self.rollout:
            return self.store.rollouts.get(self.rollout)
        ids = {device.rollout for device in self.device_views()}
        return self.store.rollouts.get(ids.pop()) if len(ids) == 1 else None

    @property
    def target(self) -> str:
        """Name what is chosen, as the title of a menu does."""
        if self.requests:
            return _named([request.name for request in self.request_views()], "request")
        if self.devices:
            return _named([device.name for device in self.device_views()], "device")
        if self.rollout:
            rollout = self.rollout_view()
            return f"the rollout of {title(rollout)}" if rollout else ""
        release = self.store.releases.get(self.release)
        return clean(release.name) if release else ""

    def request_views(self) -> list[EnrollView]:
        """Give the chosen requests that are still there."""
        return [found for key in self.requests if (found := self.store.requests.get(key)) is not None]


def _named(names: list[str], word: str) -> str:
    """Name one by its name and more by their number."""
    return clean(names[0]) if len(names) == 1 else counted(len(names), word) if names else ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One statement: what the command log says of it, its command line, and the act."""

    call: str
    cli: str
    run: Callable[[Acts], Awaitable[str]]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask, and what to do then."""

    confirm: Confirm
    steps: tuple[Step, ...]


Kind = Literal[
    "deploy", "roll_back", "pause", "cancel", "advance", "retry", "approve", "reject", "retire", "hold", "release_hold"
]

_RIGHTS: Final[dict[Kind, Action]] = {
    "deploy": "deploy",
    "roll_back": "rollback",
    "pause": "control",
    "cancel": "control",
    "advance": "control",
    "retry": "control",
    "approve": "enroll",
    "reject": "enroll",
    "retire": "device",
    "hold": "device",
    "release_hold": "device",
}


def kind_of(action: str) -> Kind:
    """Give the kind of an action id such as ``rollout.pause``."""
    name = action.rpartition(".")[2]
    return next(kind for kind in _RIGHTS if kind == name)


def refusal(action: str, scene: Scene) -> str:
    """Say why an action cannot be done here, or nothing."""
    kind = kind_of(action)
    right = _RIGHTS[kind]
    if scene.identity.read_only:
        return f"read-only: {scene.identity.read_only}"
    if right not in scene.identity.may:
        return f"your key has no right to {right}"
    if not scene.live:
        return "the coordinator is not connected"
    if kind == "deploy":
        return "" if scene.store.releases else "there is no release yet: nixfleet release create"
    if kind in {"approve", "reject"}:
        return "" if scene.request_views() else "nobody asks"
    if kind in {"retire", "hold", "release_hold"}:
        return _device_refusal(kind, scene.device_views())
    return _rollout_refusal(kind, scene.rollout_view())


def plan(action: str, scene: Scene) -> Plan:
    """Build the plan of an action that `refusal` has nothing against; deployments have `plan_deployment`."""
    kind = kind_of(action)
    if kind == "approve":
        return _approve(scene.request_views())
    if kind == "reject":
        return _reject(scene.request_views())
    if kind in {"retire", "hold", "release_hold"}:
        return _membership(kind, scene)
    rollout = scene.rollout_view()
    assert rollout is not None
    devices = [device for device in scene.store.devices.values() if device.rollout == rollout.id]
    if kind == "roll_back":
        return _roll_back(rollout, devices)
    return _control(kind, rollout, devices)


def plan_deployment(scene: Scene, deployment: Deployment, devices: list[DeviceView], told: tuple[Line, ...]) -> Plan:
    """Build the plan of a deployment that was filled in and previewed."""
    release = scene.store.releases.get(deployment.release)
    name = clean(release.name) if release else deployment.release[:8]
    return Plan(
        confirm=question(f"Deploy {name}?", devices, told, verb="deploy"),
        steps=(
            Step(
                call=f"POST /v1/log  rollout of {name}",
                cli=_start_line(scene, deployment, {device.id: device.name for device in devices}),
                run=lambda acts: acts.deploy(deployment),
            ),
        ),
    )


def _start_line(scene: Scene, deployment: Deployment, names: Mapping[str, str]) -> str:
    """Give the command line of a deployment; none for a choice among a tag's values, which the command does not have.

    A release goes by its digest where its name means a newer one.
    """
    if any(len(values) > 1 for values in deployment.select.values()):
        return ""
    releases = scene.store.releases
    release = releases.get(deployment.release)
    alone = release and all(one.index <= release.index for one in releases.values() if one.name == release.name)
    words = [release.name if release and alone else deployment.release[:12]]
    chosen = [f"{key}={value}" for key, (value,) in sorted(deployment.select.items())]
    for on in (*chosen, *(names[device] for device in deployment.devices)):
        words += ["--on", on]
    for wave in deployment.waves:
        words += ["--wave", wave]
    words += [] if deployment.soak_s is None else ["--soak", f"{deployment.soak_s}s"]
    words += ["-m", deployment.note] if deployment.note else []
    return clean(f"nixfleet rollout start {shlex.join(words)}")


def _device_refusal(kind: Kind, devices: list[DeviceView]) -> str:
    if not devices:
        return "no device is chosen"
    if kind == "retire":
        return (
            "choose one device at a time"
            if len(devices) > 1
            else _unless(devices[0].state != "retired", "it is retired")
        )
    if kind == "hold":
        return _unless(all(device.state == "active" for device in devices), "only active devices can be held")
    return _unless(all(device.state == "held" for device in devices), "it is not held")


def _rollout_refusal(kind: Kind, rollout: RolloutView | None) -> str:
    if rollout is None:
        return "no rollout is chosen"
    if kind == "roll_back":
        return _unless(rollout.confirmed > 0, "no device has confirmed it")
    if not is_open(rollout):
        return f"the rollout is {rollout.state}"
    if kind == "retry":
        return _unless(rollout.failed > 0, "nothing has failed")
    if kind == "advance":
        return _unless(_next_wave(rollout) is not None, "every wave is open")
    return ""


def _unless(fine: bool, why: str) -> str:
    return "" if fine else why


def _next_wave(rollout: RolloutView) -> int | None:
    return next((wave.number for wave in rollout.waves if wave.opened_at is None), None)


def _control(kind: Kind, rollout: RolloutView, devices: list[DeviceView]) -> Plan:
    verbs: dict[Kind, tuple[Verb, str]] = {
        "cancel": ("cancel", "Devices that have it keep it; no further device gets it."),
        "advance": ("advance", "The next wave opens now, whatever its gate waits for."),
        "retry": ("retry", "The devices that failed try once more."),
        "pause": ("pause", "No further device starts; those under way finish."),
    }
    verb, effect = verbs[kind]
    if kind == "pause" and rollout.state in {"paused", "halted"}:
        verb, effect = "resume", "The rollout goes on where it stood; failed devices are not tried again."
    wave = _next_wave(rollout) if verb == "advance" else None
    name = title(rollout)
    if verb == "advance":
        name += f", wave {wave}"
    touched = devices if verb in {"advance", "retry", "resume"} else []
    number = f" {wave}" if wave is not None else ""
    return Plan(
        confirm=question(f"{verb.capitalize()} {name}?", touched, ((Span(effect),),), verb=verb),
        steps=(
            Step(
                call=f"POST /v1/log  control {verb} {rollout.id[:8]}",
                cli=f"nixfleet rollout {verb} {rollout.id[:8]}{number}",
                run=lambda acts: acts.control(rollout.id, verb, wave=wave),
            ),
        ),
    )


def _roll_back(rollout: RolloutView, devices: list[DeviceView]) -> Plan:
    told: tuple[Line, ...] = (
        (Span("Each device that confirmed it returns to the system it ran before."),),
        (Span("Data is not rolled back.", "warn"),),
    )
    return Plan(
        confirm=question(f"Roll back {title(rollout)}?", devices, told, verb="roll back"),
        steps=(
            Step(
                call=f"POST /v1/log  rollback of {rollout.id[:8]}",
                cli=f"nixfleet rollout rollback {rollout.id[:8]}",
                run=lambda acts: acts.roll_back(rollout.id, ""),
            ),
        ),
    )


def _membership(kind: Kind, scene: Scene) -> Plan:
    devices = scene.device_views()
    until = scene.now + HOLD_S if kind == "hold" else None
    state: Literal["active", "held", "retired"] = (
        "retired" if kind == "retire" else "held" if kind == "hold" else "active"
    )
    titles = {"retire": "Retire {}?", "hold": "Hold {} for a week?", "release_hold": "Let {} take updates again?"}
    told = {
        "retire": "It leaves the fleet for good and must be enrolled again to come back.",
        "hold": "It takes no updates until then.",
        "release_hold": "Open and standing rollouts reach it at once.",
    }
    what = _named([device.name for device in devices], "device")
    commands = {
        "retire": "nixfleet device retire {}",
        "hold": f"nixfleet device hold {{}} --until {when(until or 0).replace(' ', 'T')}Z",
        "release_hold": "nixfleet device hold {} --end",
    }

    def step(device: DeviceView) -> Step:
        return Step(
            call=f"POST /v1/log  device {device.name} {state}",
            cli=commands[kind].format(device.name),
            run=lambda acts: acts.set_state(device.id, state, until),
        )

    confirm = question(
        titles[kind].format(what),
        devices,
        ((Span(told[kind]),),),
        verb="retire" if kind == "retire" else "hold" if kind == "hold" else "go on",
        forever=(clean(devices[0].name).strip() or devices[0].id[:8]) if kind == "retire" else "",
    )
    return Plan(confirm=confirm, steps=tuple(step(device) for device in devices))


def _approve(requests: list[EnrollView]) -> Plan:
    one = requests[0]
    lines: list[Line] = []
    if len(requests) == 1:
        lines = [(Span("The device must show exactly this:"),), ()]
        lines += [(Span(f"   {row}", "accent"),) for row in fingerprint_rows(one.fingerprint)]
    else:
        lines = [
            (Span(f"{clean(request.name)}  ", "strong"), Span(clean(request.fingerprint), "dim"))
            for request in requests
        ]

    def step(request: EnrollView) -> Step:
        tags = "".join(f" --tag {key}={value}" for key, value in sorted(request.tags.items()))
        return Step(
            call=f"POST /v1/log  device {request.name} active",
            cli=f"nixfleet enroll {request.name} --key {request.fingerprint}{tags}",
            run=lambda acts: acts.enroll(request),
        )

    what = _named([request.name for request in requests], "device")
    return Plan(
        confirm=Confirm(
            title=f"Enroll {what}?",
            lines=tuple(lines),
            level="yes" if len(requests) == 1 else "count",
            expect=str(len(requests)),
            verb="enroll",
        ),
        steps=tuple(step(request) for request in requests),
    )


def _reject(requests: list[EnrollView]) -> Plan:
    def step(request: EnrollView) -> Step:
        return Step(
            call=f"DELETE /v1/enroll/{request.device[:8]}",
            cli="",
            run=lambda acts: acts.forget_request(request.device),
        )

    what = _named([request.name for request in requests], "request")
    return Plan(
        confirm=Confirm(
            title=f"Drop {what}?",
            lines=((Span("The request goes; the device may ask again."),),),
            level="yes" if len(requests) == 1 else "count",
            expect=str(len(requests)),
            verb="drop",
        ),
        steps=tuple(step(request) for request in requests),
    )
