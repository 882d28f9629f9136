"""The PostgreSQL adapter: the only package that imports psycopg. SQL stands in ``sql/queries``."""
