"""Wire models and ids: frozen structs that everything else speaks in; no IO, no rules beyond a value's own."""
