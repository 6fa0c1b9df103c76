"""Every query of Turnwire: plain functions over a SQLAlchemy `Connection`, the same on SQLite and PostgreSQL."""
