"""The HTTP routes of docs/protocol.md, by who they serve; they translate, and decide nothing."""
