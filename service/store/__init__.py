"""What outlasts a request: a database of the server's own, in SQLite by default or in PostgreSQL.

store.py      the store of a process: opens the database at its first use, and finds out where it is
database.py   connections, transactions, and the meaning of what databases raise
tables.py     the tables, as SQLAlchemy Core has them
upgrade.py    brings the tables of a database up to date (Alembic), once, however many processes start at once
networks.py   networks: added, found, listed, removed, and forgotten when nobody used them for long
loaded.py     networks that this process has read, bounded in bytes, and for how long that may be believed
errors.py     why the store does not do what it was asked

SQLAlchemy takes 0.3 s to import and Alembic as much again. So `store.py`, `loaded.py` and `errors.py`, which every
process imports, import neither of them; the other modules are imported when the store is used first.
"""
