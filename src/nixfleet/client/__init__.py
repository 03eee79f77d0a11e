"""The way to a coordinator for agent, console and CLI: typed API, verified mirror of the log, signed acts, pushes.

Must never trust what it carries: whatever matters is verified by `nixfleet.trust` before anyone acts on it.
"""
