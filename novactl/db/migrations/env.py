"""What alembic runs: the revisions, on the connection that migrate() holds."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    on_version_apply=context.config.attributes["told"],
)
with context.begin_transaction():
    context.run_migrations()
