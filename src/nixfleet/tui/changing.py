"""How the app changes the fleet: what is possible, the forms, the question, and then the acts."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from textual import work
from textual.driver import Driver

from nixfleet.tui import actions
from nixfleet.tui.confirm import Confirm
from nixfleet.tui.desk import Desk
from nixfleet.tui.forms import (
    EXPLAIN_FIELDS,
    GRANT_FIELDS,
    TOKEN_FIELDS,
    Reading,
    first_holder,
    read_explain,
    read_grant,
    read_token,
)
from nixfleet.tui.intents import (
    Foresight,
    Plan,
    kind_of,
    plan,
    plan_deployment,
    plan_grant,
    plan_token,
    refusal,
)
from nixfleet.tui.keys import BY_ID
from nixfleet.tui.ports import Acts, GrantWish, TokenWish
from nixfleet.tui.toasts import PlainToasts
from nixfleet.tui.view.text import Line, Span
from nixfleet.tui.widgets.deploy import DeployDialog
from nixfleet.tui.widgets.dialogs import ConfirmDialog, MenuDialog
from nixfleet.tui.widgets.forms import FormDialog, SecretDialog

if TYPE_CHECKING:
    from nixfleet.tui.screens.base import ConsoleScreen

JOIN: Final = "nixfleet agent join TOKEN"
READ_CHARS_S: Final = 12
"""A reason stands as long as it takes to read."""


class Changing(PlainToasts):
    """The part of the app that plans, asks and performs."""

    def __init__(self, desk: Desk, driver_class: type[Driver] | None = None) -> None:
        super().__init__(driver_class=driver_class)
        self.desk = desk

    @property
    def shown(self) -> "ConsoleScreen":
        """The screen of ours that is on top, under whatever dialog."""
        raise NotImplementedError

    def action_menu(self) -> None:
        """Show what can be changed here, and why something cannot."""
        choices = actions.menu(self.shown.scope, self.shown.scene(), self.desk.options.keys)
        if choices:
            title = f"Actions on {self.shown.target}" if self.shown.target else "Actions"
            self.push_screen(MenuDialog(title, choices), lambda name: self.action_act(name) if name else None)
        else:
            self.notify("Nothing can be changed from here.", timeout=2)

    def action_act(self, name: str) -> None:
        """Plan an action, ask, and do it; what is not possible says why."""
        key, screen = BY_ID[name], self.shown
        scene = screen.scene()
        why = refusal(key.id, scene)
        if why:
            self.notify(f"{key.label}: {why}.", severity="warning", timeout=max(4, len(why) / READ_CHARS_S))
            return
        match kind_of(name):
            case "deploy":
                self.push_screen(DeployDialog.on(scene, self.desk.feed.release))
            case "token":
                self._ask_token()
            case "grant":
                self._ask_grant()
            case _:
                self._ask(plan(name, scene))

    def on_deploy_dialog_asked(self, event: DeployDialog.Asked) -> None:
        """Ask for what the form comes to; only a yes closes it."""
        event.stop()
        self._ask(plan_deployment(self.shown.scene(), event.filled), event.form.dismiss)

    def _ask_token(self) -> None:
        def filled_in(wish: TokenWish | None) -> None:
            if wish is not None:
                self._ask(plan_token(wish))

        first = {"uses": "1", "days": "7"}
        self.push_screen(FormDialog("A join token", TOKEN_FIELDS, first, read_token), filled_in)

    def _ask_grant(self) -> None:
        identity, now = self.desk.identity, self.desk.clock()
        told: list[tuple[Line, ...]] = []

        def read(texts: Mapping[str, str]) -> Reading[GrantWish]:
            answer = read_grant(texts, self.desk.authority.public_key, identity.principal, now)
            told[:] = [answer.lines]
            return answer

        def filled_in(wish: GrantWish | None) -> None:
            if wish is not None:
                self._ask(plan_grant(wish, told[0]))

        self.push_screen(FormDialog("A grant", GRANT_FIELDS, {}, read), filled_in)

    def action_explain(self) -> None:
        """Say what a key may do to a device, and by which chain."""
        desk, scene = self.desk, self.shown.scene()
        first = {
            "key": first_holder(desk.access, scene.right) or desk.identity.principal,
            "action": "deploy",
            "device": next((device.name for device in scene.device_views()), ""),
        }

        def read(texts: Mapping[str, str]) -> Reading[None]:
            return read_explain(texts, desk.access, list(desk.store.devices.values()), desk.authority)

        self.push_screen(FormDialog("What may they do?", EXPLAIN_FIELDS, first, read, gives=False))

    def _ask(self, wanted: Plan, then: Callable[[], object] = lambda: None) -> None:
        """Ask; `then` comes before what was agreed to is done."""

        def answered(yes: bool | None) -> None:
            if yes:
                then()
                self._perform(wanted)

        self.push_screen(ConfirmDialog(wanted.confirm, self._foreseen(wanted.foresight)), answered)

    def _foreseen(self, foresight: Foresight | None) -> AsyncGenerator[Confirm, None] | None:
        """Give the question anew whenever more is known of what is asked; it stands in the command log."""
        if foresight is None or self.desk.feed.ports is None:
            return None
        self.desk.calls.note(foresight.cli or "a preview", "asks devices' reports and caches what it would do")
        return _questions(foresight, self.desk.acts)

    @work(exit_on_error=False, group="acts", name="the action")
    async def _perform(self, wanted: Plan) -> None:
        """Sign and submit; a step that fails ends it, and the rest is named."""
        if self.desk.options.foreground is not None:
            self.desk.options.foreground.ask_again()
        result = await actions.perform(wanted, self.desk.acts, self.desk.calls, self.notify)
        if result.failed:
            left = f" ({result.left} not done)" if result.left > 1 else ""
            self.notify(f"{result.failed}{left}", severity="error", timeout=15)
        for secret in result.secrets:
            lines = ((Span("It is shown once, and kept nowhere. On the device:"),), (Span(JOIN, "dim"),))
            self.push_screen(SecretDialog("The token", secret.text, lines))


async def _questions(foresight: Foresight, acts: Acts) -> AsyncGenerator[Confirm, None]:
    async with aclosing(foresight.previews(acts)) as previews:
        async for one in previews:
            yield foresight.ask(one)
