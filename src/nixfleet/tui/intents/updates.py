"""Rollouts: deploying, pausing, advancing, retrying, cancelling, rolling back."""

import shlex
from collections.abc import Sequence
from typing import Literal

from nixfleet.model.device import Outcome
from nixfleet.model.statements import Verb
from nixfleet.model.text import clean
from nixfleet.model.views import DeviceView, RolloutView, WaveView
from nixfleet.preview.plan import Preview
from nixfleet.tui.confirm import Confirm, foreseen, question
from nixfleet.tui.intents.scene import Foresight, Plan, Scene, Step, unless
from nixfleet.tui.ports import Deployment
from nixfleet.tui.preview import Filled
from nixfleet.tui.view.preview import preview_lines
from nixfleet.tui.view.rollouts import is_open, title
from nixfleet.tui.view.text import Line, Span

Kind = Literal["roll_back", "pause", "cancel", "advance", "retry", "retry_these", "lift"]


def plan(kind: Kind, scene: Scene) -> Plan:
    """Build the statement over the chosen rollout, which `refusal` has nothing against."""
    rollout = scene.rollout_view()
    assert rollout is not None
    devices = [device for device in scene.store.devices.values() if device.rollout == rollout.id]
    if kind == "roll_back":
        return _roll_back(scene, rollout, devices)
    return _control(kind, rollout, scene.member_views() if kind == "retry_these" else devices)


def plan_deployment(scene: Scene, form: Filled) -> Plan:
    """Build the plan of a deployment that was filled in; what becomes known of it meanwhile is asked for."""
    deployment, devices = form.deployment, form.devices
    release = scene.store.releases.get(deployment.release)
    name = clean(release.name) if release else deployment.release[:8]
    cli = _start_line(scene, deployment)

    def ask(preview: Preview) -> Confirm:
        told = preview_lines(preview, scene.now)
        return foreseen(f"Deploy {name}?", devices, preview, told, verb="deploy")

    return Plan(
        confirm=ask(form.shown),
        steps=(Step(call=f"POST /v1/log  rollout of {name}", cli=cli, run=lambda acts: acts.deploy(deployment)),),
        foresight=Foresight(previews=lambda acts: acts.preview(deployment), ask=ask, cli=f"{cli} --dry-run"),
    )


def _start_line(scene: Scene, deployment: Deployment) -> str:
    """Give the command line of a deployment; a release goes by its digest where its name means a newer one."""
    releases = scene.store.releases
    release = releases.get(deployment.release)
    alone = release and all(one.index <= release.index for one in releases.values() if one.name == release.name)
    words = [release.name if release and alone else deployment.release[:12], *deployment.flags]
    words += ["-m", deployment.note] if deployment.note else []
    return clean(f"nixfleet rollout start {shlex.join(words)}")


def refusal(kind: Kind, rollout: RolloutView | None, members: Sequence[DeviceView] = ()) -> str:
    """Say why this cannot be done to the chosen rollout, or nothing."""
    if rollout is None:
        return "no rollout is chosen"
    if kind == "roll_back":
        return unless(rollout.confirmed > 0, "no device has confirmed it")
    if not is_open(rollout):
        return f"the rollout is {rollout.state}"
    if kind == "retry":
        return unless(rollout.failed > 0, "nothing has failed")
    if kind == "retry_these":
        done = next((one for one in members if has_confirmed(one, rollout)), None)
        return f"{clean(done.name)} has confirmed it" if done else unless(bool(members), "no device is chosen")
    if kind == "advance":
        wave = _next_wave(rollout)
        if wave is None:
            return "every wave is open"
        return unless(wave.gate == "signed", f"wave {wave.number} opens by itself, when the one before has soaked")
    if kind == "lift":
        return unless(bool(rollout.stops), "it has stopped for no kind of device")
    return ""


def has_confirmed(device: DeviceView, rollout: RolloutView) -> bool:
    """Tell whether a device has confirmed this very rollout."""
    return device.rollout == rollout.id and device.outcome is Outcome.CONFIRMED


def _next_wave(rollout: RolloutView) -> WaveView | None:
    return next((wave for wave in rollout.waves if wave.opened_at is None), None)


def _control(kind: Kind, rollout: RolloutView, devices: list[DeviceView]) -> Plan:
    verbs: dict[Kind, tuple[Verb, str]] = {
        "cancel": ("cancel", "Devices that have it keep it; no further device gets it."),
        "advance": (
            "advance",
            "Its gate has its signature then; it opens once the wave before has soaked.",
        ),
        "retry": ("retry", "The devices that failed try once more."),
        "retry_these": ("retry", "It is tried once more there, whatever came of it before."),
        "pause": ("pause", "No further device starts; those under way finish."),
        "lift": ("resume", "It goes on for the kinds of device that it stopped for; what failed is not tried again."),
    }
    verb, effect = verbs[kind]
    if kind == "pause" and rollout.state in {"paused", "halted"}:
        verb, effect = "resume", "The rollout goes on where it stood; failed devices are not tried again."
    following = _next_wave(rollout)
    wave = following.number if verb == "advance" and following is not None else None
    name = title(rollout)
    if verb == "advance":
        name += f", wave {wave}"
    touched = devices if verb in {"advance", "retry", "resume"} else []
    number = f" {wave}" if wave is not None else ""
    these = tuple(device.id for device in devices) if kind == "retry_these" else ()
    named = "".join(f" {clean(device.name)}" for device in devices) if these else ""
    told: list[Line] = [(Span(effect),)]
    if verb == "retry" and rollout.state in {"halted", "paused"}:
        told.append((Span(f"It is still {rollout.state}: nobody starts before it is resumed.", "warn"),))
    return Plan(
        confirm=question(f"{verb.capitalize()} {name}?", touched, told, verb=verb),
        steps=(
            Step(
                call=f"POST /v1/log  control {verb} {rollout.id[:8]}",
                cli=f"nixfleet rollout {verb} {rollout.id[:8]}{number}{named}",
                run=lambda acts: acts.control(rollout.id, verb, wave=wave, devices=these),
            ),
        ),
    )


def _roll_back(scene: Scene, rollout: RolloutView, devices: list[DeviceView]) -> Plan:
    told: tuple[Line, ...] = (
        (Span("Each device that confirmed it returns to the system it ran before."),),
        (Span("Data is not rolled back.", "warn"),),
    )
    name, cli = f"Roll back {title(rollout)}?", f"nixfleet rollout rollback {rollout.id[:8]}"

    def ask(preview: Preview) -> Confirm:
        back = {one.device for one in preview.devices}
        those = [device for device in scene.store.devices.values() if device.id in back]
        lines = *told, (), *preview_lines(preview, scene.now)
        return foreseen(name, those or devices, preview, lines, verb="roll back")

    return Plan(
        confirm=question(name, devices, told, verb="roll back"),
        steps=(
            Step(
                call=f"POST /v1/log  rollback of {rollout.id[:8]}",
                cli=cli,
                run=lambda acts: acts.roll_back(rollout.id, ""),
            ),
        ),
        foresight=Foresight(previews=lambda acts: acts.preview_roll_back(rollout.id), ask=ask, cli=f"{cli} --dry-run"),
    )
