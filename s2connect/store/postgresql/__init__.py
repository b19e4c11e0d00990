"""PostgreSQL as the store of one instance or of many: extra ``postgresql``. Only its modules need psycopg."""
