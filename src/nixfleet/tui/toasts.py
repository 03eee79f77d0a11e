"""Toasts that show text as it is: errors and sentences carry foreign names, whose markup is never interpreted."""

from textual.app import App
from textual.notifications import SeverityLevel

from nixfleet.model.text import clean


class PlainToasts(App[int]):
    """An app whose toasts neither obey markup nor pass on control characters."""

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,  # noqa: ARG002 (Textual's signature; markup is refused whoever asks for it)
    ) -> None:
        """Show a toast."""
        super().notify(clean(message), title=title, severity=severity, timeout=timeout, markup=False)
