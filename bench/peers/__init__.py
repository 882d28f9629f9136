"""Other products that replicate from one PostgreSQL to another, each in a file of its own."""
