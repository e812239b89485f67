"""The entry point through which Alembic runs the migrations.

Migrations run on the connection that `service/store/upgrade.py` gives, within its transaction. To write a migration,
change `tables.py` and run in the repository:

    .venv/bin/python -m service.store.upgrade --new "summary of the change"
"""

from alembic import context

from service.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite can change a table only by creating it anew
    transactional_ddl=True,
)
context.run_migrations()
