"""Wire models and ids: frozen structs that everything else speaks in; no IO, no rules beyond shape."""

from nixfleet.model import device, ids, statements, views, wire

__all__ = ["device", "ids", "statements", "views", "wire"]
