"""Holding, releasing and retiring devices."""

from typing import Final, Literal

from nixfleet.model.text import clean
from nixfleet.model.views import DeviceView
from nixfleet.tui.confirm import question
from nixfleet.tui.intents.scene import Plan, Scene, Step, named, unless
from nixfleet.tui.view.devices import when
from nixfleet.tui.view.text import Span

HOLD_S: Final = 7 * 86_400
Kind = Literal["retire", "hold", "release_hold"]


def refusal(kind: Kind, devices: list[DeviceView]) -> str:
    """Say why this cannot be done to the chosen devices, or nothing."""
    if not devices:
        return "no device is chosen"
    if kind == "retire":
        return (
            "choose one device at a time"
            if len(devices) > 1
            else unless(devices[0].state != "retired", "it is retired")
        )
    if kind == "hold":
        return unless(all(device.state == "active" for device in devices), "only active devices can be held")
    return unless(all(device.state == "held" for device in devices), "it is not held")


def plan(kind: Kind, scene: Scene) -> Plan:
    """Build one statement for each device."""
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
    what = named([device.name for device in devices], "device")
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
