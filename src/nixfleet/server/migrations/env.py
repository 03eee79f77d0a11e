"""Alembic's entry point: runs the steps on the connection that `schema.upgrade` hands in."""

from alembic import context

from nixfleet.server.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
