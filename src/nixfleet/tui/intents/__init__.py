"""What each mutating action would do to what is chosen: why it cannot, what to confirm, and the acts that do it.

Pure: it reads the store and the replay's answers and builds a plan; nothing happens before `actions` performs it.
"""

from typing import Final, Literal

from nixfleet.model.statements import Action
from nixfleet.tui.intents import access, joining, members, updates
from nixfleet.tui.intents.access import plan_grant
from nixfleet.tui.intents.joining import plan_token
from nixfleet.tui.intents.scene import Foresight, Plan, Scene, Standing, Step
from nixfleet.tui.intents.updates import plan_deployment

__all__ = [
    "Foresight",
    "Plan",
    "Scene",
    "Standing",
    "Step",
    "kind_of",
    "plan",
    "plan_deployment",
    "plan_grant",
    "plan_token",
    "refusal",
]

Kind = Literal["deploy", "token", "grant", updates.Kind, members.Kind, joining.Kind, access.Kind]

_RIGHTS: Final[dict[Kind, Action]] = {
    "deploy": "deploy",
    "roll_back": "rollback",
    "pause": "control",
    "cancel": "control",
    "advance": "control",
    "retry": "control",
    "retry_these": "control",
    "lift": "control",
    "approve": "enroll",
    "reject": "enroll",
    "token": "grant",
    "retire": "device",
    "hold": "device",
    "release_hold": "device",
    "grant": "grant",
}
"""The right that an act takes; what the Access screen ends or signs is judged there."""


def kind_of(action: str) -> Kind:
    """Give the kind of an action id such as ``rollout.pause``."""
    name = action.rpartition(".")[2]
    return next(kind for kind in (*_RIGHTS, *access.OWN) if kind == name)


def refusal(action: str, scene: Scene) -> str:
    """Say why an action cannot be done here, or nothing."""
    kind = kind_of(action)
    right = _RIGHTS.get(kind)
    if scene.identity.read_only:
        return f"read-only: {scene.identity.read_only}"
    if not scene.live:  # before rights: until there is a link, nobody knows whose key this is
        return "the coordinator is not connected"
    if right is not None and right not in scene.identity.may:
        return f"your key has no right to {right}{_instead(scene)}"
    if scene.distrust:
        return scene.distrust
    why = _impossible(kind, scene)
    if why or right is None:
        return why
    return scene.standing.why_not(right, scene.device_views())


def _instead(scene: Scene) -> str:
    may = sorted(scene.identity.may)
    return f"; it may {', '.join(may)}" if may else ""


def _impossible(kind: Kind, scene: Scene) -> str:
    match kind:
        case "deploy":
            return "" if scene.store.releases else "there is no release yet: nixfleet release create"
        case "token" | "grant":
            return ""
        case "approve" | "reject":
            return joining.refusal(kind, scene)
        case "retire" | "hold" | "release_hold":
            return members.refusal(kind, scene.device_views())
        case "revoke" | "sign":
            return access.refusal(kind, scene)
        case _:
            return updates.refusal(kind, scene.rollout_view(), scene.member_views())


def plan(action: str, scene: Scene) -> Plan:
    """Build the plan of an action that `refusal` has nothing against; what a form is filled in for has its own."""
    kind = kind_of(action)
    match kind:
        case "deploy" | "token" | "grant":
            raise AssertionError("a form comes first")
        case "approve" | "reject":
            return joining.plan(kind, scene)
        case "retire" | "hold" | "release_hold":
            return members.plan(kind, scene)
        case "revoke" | "sign":
            return access.plan(kind, scene)
        case _:
            return updates.plan(kind, scene)
