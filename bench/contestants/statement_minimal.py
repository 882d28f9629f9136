"""The least that a trigger can do and still keep the rows: their JSON, in the order of an id.

No version, key, operation or clock. A floor for statement triggers, not something to replicate with.
"""

from __future__ import annotations

from psycopg import Connection

SQL = """
create table queue (id bigserial primary key, payload json);
create function capture_new() returns trigger language plpgsql as $$
begin
  insert into queue (payload) select row_to_json(r) from new_rows r;
  return null;
end $$;
create function capture_old() returns trigger language plpgsql as $$
begin
  insert into queue (payload) select row_to_json(r) from old_rows r;
  return null;
end $$;
create trigger capture_insert after insert on users referencing new table as new_rows
  for each statement execute function capture_new();
create trigger capture_update after update on users referencing new table as new_rows
  for each statement execute function capture_new();
create trigger capture_delete after delete on users referencing old table as old_rows
  for each statement execute function capture_old();
"""


class StatementMinimal:
    name = "statement-minimal"

    def missing(self, connection: Connection) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self, connection: Connection) -> None:
        connection.execute(SQL)
