"""State of record: the only importer of SQLAlchemy. Queries are SQL text that every database reads."""
