"""State that several instances share in PostgreSQL while requests are under way. Its modules need psycopg."""
