"""The console's themes: dark, light, high contrast, and the terminal's own palette."""

import dataclasses
from typing import Final

from textual.theme import BUILTIN_THEMES, Theme

THEMES: Final = (
    Theme(
        name="nixfleet-dark",
        primary="#7ebae4",
        secondary="#5277c3",
        accent="#7ebae4",
        success="#8cc98f",
        warning="#e5b567",
        error="#f0787d",
        foreground="#c5cdd6",
        background="#101419",
        surface="#171c23",
        panel="#1a2029",
        dark=True,
        variables={
            "nf-dim": "#7b8794",
            "nf-strong": "#eef2f6",
            "nf-busy": "#7ebae4",
            "nf-line": "#2b3440",
            "nf-cursor": "#243040",
        },
    ),
    Theme(
        name="nixfleet-light",
        primary="#2f5fae",
        secondary="#5277c3",
        accent="#2f5fae",
        success="#2f7d3a",
        warning="#8f5f00",
        error="#b3262e",
        foreground="#2b333b",
        background="#fbfbf9",
        surface="#f1f1ee",
        panel="#ebebe7",
        dark=False,
        variables={
            "nf-dim": "#68727c",
            "nf-strong": "#0d1216",
            "nf-busy": "#2f5fae",
            "nf-line": "#cfd2d4",
            "nf-cursor": "#dbe5f3",
        },
    ),
    Theme(
        name="nixfleet-high-contrast",
        primary="#66ccff",
        secondary="#66ccff",
        accent="#66ccff",
        success="#66ff66",
        warning="#ffdd33",
        error="#ff7777",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#1a1a1a",
        dark=True,
        variables={
            "nf-dim": "#c8c8c8",
            "nf-strong": "#ffffff",
            "nf-busy": "#66ccff",
            "nf-line": "#ffffff",
            "nf-cursor": "#003a66",
        },
    ),
    dataclasses.replace(
        BUILTIN_THEMES["ansi-dark"],
        name="nixfleet-terminal",
        accent="ansi_blue",
        variables={
            **BUILTIN_THEMES["ansi-dark"].variables,
            "nf-dim": "ansi_default",
            "nf-strong": "ansi_default",
            "nf-busy": "ansi_blue",
            "nf-line": "ansi_bright_black",
            "nf-cursor": "ansi_default",
        },
    ),
)
FALLBACKS: Final = {
    "nf-dim": "ansi_bright_black",
    "nf-strong": "ansi_default",
    "nf-busy": "ansi_blue",
    "nf-line": "ansi_bright_black",
    "nf-cursor": "ansi_black",
}
"""What themes that are not ours do not name, in the terminal's own colours."""
