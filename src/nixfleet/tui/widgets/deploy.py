"""The form of a rollout: what it would do stands under it, or beside it, and follows what is typed."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Self

from textual import work
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input

from nixfleet.errors import NixfleetError, UserError
from nixfleet.model.text import clean
from nixfleet.model.views import ReleaseView
from nixfleet.tui.intents import Scene
from nixfleet.tui.preview import Filled, filled
from nixfleet.tui.starting import FIELDS, HEAD, NOTE, SECTIONS, UNTOUCHED, Field, culprit, read_start, section_words
from nixfleet.tui.view.preview import preview_lines, shortened
from nixfleet.tui.view.text import Line, Span, fit, joined
from nixfleet.tui.widgets.answer import Answer, Fold, Pick, Turned
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.dialogs import GIVE_UP, ROOMY_ROWS

BESIDE_CELLS = 140
"""From so many columns up the preview stands beside the fields."""


class DeployDialog(ModalScreen[None]):
    """The form of a deployment: release, devices and note; all else is folded away with what the defaults come to.

    It stays open, out of sight, while its question is asked: who says no finds it as it was.
    """

    BINDINGS = GIVE_UP

    class Asked(Message):
        """It is filled in, and what it comes to is to be asked for."""

        def __init__(self, form: "DeployDialog", filled: Filled) -> None:
            super().__init__()
            self.form = form
            self.filled = filled

    def __init__(
        self, scene: Scene, release: ReleaseView, on: str, read: Callable[[str], Awaitable[ReleaseView]]
    ) -> None:
        """Begin with this very release, shown by its name, and with the devices `on`, as one would type them."""
        super().__init__()
        self._store, self._now = scene.store, scene.now
        self._chosen = release
        self._first = {**UNTOUCHED, "release": release.name, "on": on}
        self._read = read
        self._filled: Filled | None = None
        self._at: Widget | None = None
        """Where one was when it was asked about."""
        self._texts_of: dict[str, str] = {}
        """The texts that the preview is of."""
        self._said: tuple[Line, ...] = ((Span("reading the release …", "dim"),),)
        self._releases: dict[str, ReleaseView] = {}

    @classmethod
    def on(cls, scene: Scene, read: Callable[[str], Awaitable[ReleaseView]]) -> Self:
        """Fill it in for what is chosen: the release, else the newest one, and the devices unless it is all."""
        releases = scene.store.releases
        newest = max(releases.values(), key=lambda release: release.index)
        first = releases.get(scene.release, newest)
        devices = scene.device_views()
        names = " ".join(clean(device.name) for device in devices) if len(devices) < len(scene.store.devices) else ""
        return cls(scene, first, names, read)

    def compose(self) -> ComposeResult:
        """Lay out fields, folded sections, preview and keys."""
        with Vertical(classes="dialog -start") as box:
            box.border_title = Content("Deploy")
            with Container(id="start-body"):
                with Vertical(id="start-fields"):
                    for field in HEAD:
                        yield from self._row(field)
                    for section in SECTIONS:
                        yield Fold(section.name, section.label)
                        with Vertical(id=f"section-{section.name}", classes="section") as rows:
                            rows.display = False
                            for field in section.fields:
                                yield from self._row(field, "  ")
                    yield from self._row(NOTE)
                yield LinesPanel(self._preview, id="form-preview")
            yield LinesPanel(self._keys, id="form-keys")

    def _row(self, field: Field, indent: str = "") -> ComposeResult:
        first = self._first[field.name]
        with Horizontal(classes="form-row"):
            yield LinesPanel(lambda _: [(Span(f"{indent}{field.label}", "dim"),)])
            if field.options:
                yield Pick(field.options, first, field.hint, id=f"form-{field.name}")
            else:
                yield Answer(first, id=f"form-{field.name}", placeholder=field.hint, compact=True)

    def on_mount(self) -> None:
        """Work out the first preview."""
        self.query_one("#form-on", Input).focus()
        self._work_out()

    def on_resize(self) -> None:
        """Give up what is only for the eye where there is no room for it; put the preview beside where there is."""
        self.set_class(self.app.size.height < ROOMY_ROWS, "-short")
        self.set_class(self.app.size.width >= BESIDE_CELLS, "-beside")
        self.query_one("#form-preview", LinesPanel).redraw(layout=True)

    def on_descendant_focus(self) -> None:
        """Say what Enter does here."""
        self.query_one("#form-keys", LinesPanel).redraw()

    def on_turned(self, event: Turned) -> None:
        """Show one section at a time; work it out again after a choice."""
        event.stop()
        if isinstance(event.turned, Pick):
            self._work_out()
            return
        for fold in self.query(Fold):
            fold.unfolded = fold.unfolded and fold is event.turned
            fold.redraw()
            self.query_one(f"#section-{fold.section}").display = fold.unfolded
        self.query_one("#form-keys", LinesPanel).redraw()
        self.query_one("#form-preview", LinesPanel).redraw(layout=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Work it out again."""
        event.stop()
        self._work_out()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go on."""
        event.stop()
        self._go_on()

    def on_pick_submitted(self, event: Pick.Submitted) -> None:
        """Go on."""
        event.stop()
        self._go_on()

    def _go_on(self) -> None:
        """Go on to the question, if there is something to ask, and about what stands in the fields by now."""
        if self._texts() != self._texts_of:
            self._work_out()
        elif self._filled is not None:
            self.post_message(self.Asked(self, self._filled))

    def on_screen_suspend(self) -> None:
        """Leave the room to the question; what cannot be seen loses the keys."""
        self._at = self.focused
        self.add_class("-asked")

    def on_screen_resume(self) -> None:
        """Come back as it was."""
        self.remove_class("-asked")
        if self._at is not None:
            self._at.focus()

    def action_give_up(self) -> None:
        """Deploy nothing."""
        self.dismiss()

    @work(exclusive=True, exit_on_error=False, group="preview")
    async def _work_out(self) -> None:
        """Read the release when it is another one, and say what would happen, or which field is wrong and why."""
        texts = self._texts_of = self._texts()
        self._filled, wrong = None, ""
        ids = {clean(device.name): device.id for device in self._store.devices.values() if device.state != "retired"}
        try:
            release = await self._release(texts["release"].strip())
            wrong = "on"
            try:
                wanted = read_start(release.id, texts, ids, self._now)
            except UserError:
                wrong = culprit(texts, ids, self._now)
                raise
            self._filled = filled(release, wanted, self._store.devices.values())
            self._said, wrong = (*self._which(release), *preview_lines(self._filled.shown, self._now)), ""
        except NixfleetError as error:
            wrong = wrong or "release"
            self._said = ((Span(clean(str(error)), "bad"),),)
        self._show(wrong)

    def _show(self, wrong: str) -> None:
        """Mark the field that is wrong, and sum up the sections."""
        for name in FIELDS:
            self.query_one(f"#form-{name}").set_class(name == wrong, "-wrong")
        for section in SECTIONS:
            self.query_one(f"#fold-{section.name}", Fold).say(self._sum(section.name, wrong))
        self.query_one("#form-preview", LinesPanel).redraw(layout=True)
        self.query_one("#form-keys", LinesPanel).redraw()

    def _sum(self, section: str, wrong: str) -> Line:
        fields = next(one.fields for one in SECTIONS if one.name == section)
        guilty = next((field for field in fields if field.name == wrong), None)
        if guilty is not None:
            return (Span(f"✗ {guilty.label} is wrong", "bad"),)
        if self._filled is None:
            return ()
        order, shape = self._filled.deployment.order, self._filled.shape
        return (Span(clean(section_words(section, order, shape, self._now)), "dim"),)

    def _texts(self) -> dict[str, str]:
        return dict(self._values())

    def _values(self) -> Iterator[tuple[str, str]]:
        for name in FIELDS:
            field = self.query_one(f"#form-{name}")
            assert isinstance(field, Input | Pick)
            yield name, field.value

    async def _release(self, name: str) -> ReleaseView:
        """Read the release of this name or id: the chosen one while its name stands there, else the newest."""
        found = [release for release in self._store.releases.values() if name in {release.name, release.id}]
        if not found:
            raise UserError(f"no release is called {name!r}")
        meant = self._chosen if name == self._chosen.name else max(found, key=lambda release: release.index)
        if meant.id not in self._releases:
            self._releases[meant.id] = await self._read(meant.id)
        return self._releases[meant.id]

    def _which(self, release: ReleaseView) -> tuple[Line, ...]:
        """Say which release it is where a newer one has the same name."""
        newer = any(one.name == release.name and one.index > release.index for one in self._store.releases.values())
        return ((Span(f"this is {release.id[:8]}; a newer release has the same name", "warn"),),) if newer else ()

    def _preview(self, cells: int) -> list[Line]:
        """Keep what fits beside or under the fields; the most important stays."""
        height = self.app.size.height
        unfolded = sum(len(section.fields) for section in SECTIONS if self._is_unfolded(section.name))
        if self.has_class("-beside"):
            return shortened(self._said, cells, height * 9 // 10 - 8)
        rows = len(HEAD) + len(SECTIONS) + 1 + unfolded
        # Frame, the line above the preview, the keys; where there is room also blank lines around them and between.
        around = 5 if self.has_class("-short") else height // 10 + 8
        return [(), *shortened(self._said, cells, max(2, height - rows - around))]

    def _is_unfolded(self, section: str) -> bool:
        return self.query_one(f"#fold-{section}", Fold).unfolded

    def _keys(self, cells: int) -> list[Line]:
        possible = self._filled is not None
        here = self.focused
        enter: Line = (Span("enter", "accent" if possible else "dim"), Span(" go on", "plain" if possible else "dim"))
        if isinstance(here, Fold):
            enter = (Span("enter", "accent"), Span(" fold" if here.unfolded else " unfold"))
        turn: Line = (Span("← →", "accent"), Span(" choose")) if isinstance(here, Pick) else ()
        parts = (enter, turn, (Span("↑ ↓", "accent"), Span(" field")), (Span("esc ^c", "accent"), Span(" no")))
        keys = fit(joined(parts, "    "), cells)
        return [keys] if self.has_class("-short") else [(), keys]
