"""The persistent store: a database of the server's own, in SQLite by default or in PostgreSQL.

store.py      the store of a process: finds its place from the settings and opens the database at the first use
database.py   connections, transactions, and the translation of database errors into errors of the store
tables.py     the tables, in SQLAlchemy Core
upgrade.py    brings the tables of a database up to date (Alembic), once, however many processes start at once
blobs.py      bytes that networks and runs refer to, each stored once, and the sum of all that is stored
networks.py   the networks in the database: add, find, list, remove, and forget what was not used for long
runs.py       the runs in the database, and the queue of those that wait
run_*.py      their rows, what a runner writes to them, and the SQL
loaded.py     a cache of the networks that this process has read, bounded in bytes and in time
content.py    the content of a network as bytes, and the id that is computed from the content

SQLAlchemy takes 0.3 s to import and Alembic as much again. So `store.py`, `loaded.py` and `service/store_errors.py`,
which every process imports, import neither of them. The other modules are imported when the store is used first.
"""
