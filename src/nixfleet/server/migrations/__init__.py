"""Alembic's folder; `nixfleet.server.schema` runs it at start, nobody calls alembic by hand."""
