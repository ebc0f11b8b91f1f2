"""The database: peewee models, queries, migrations. SQLite and MySQL."""
