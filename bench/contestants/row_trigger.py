"""The usual way: one AFTER ROW trigger in PL/pgSQL that queues ``to_jsonb(NEW)``.

It does what ours does for each row, less the tombstones: stamps a version, and fills a queue with the
columns and indexes of ours, copied from the installed one. It is at its best, for the question is what
the kind of trigger costs: the event id is made of the queue id, since a random UUID for each row takes
a system call, and there are no CHECK constraints, since PostgreSQL prepares them for each INSERT anew.
"""

from __future__ import annotations

from psycopg import Connection

from bench import layout
from bench.contestants.ours import contour_settings
from replication_pipeline.postgres import installer

TABLES = f"""
create schema row_trigger;
create sequence row_trigger.ids;
create table row_trigger.queue
  (like {layout.QUEUE} including all excluding identity excluding constraints);
alter table row_trigger.queue alter column payload type jsonb;
alter table users add column replication_version bigint not null default 0;
"""

STAMP = """
create function row_trigger.stamp() returns trigger language plpgsql as $$
begin
  new.replication_version := (date_part('epoch', clock_timestamp()) * 1000000)::bigint << 10 | 1;
  return new;
end $$;
create trigger zz_stamp before insert or update on users
  for each row execute function row_trigger.stamp();
"""

CAPTURE = """
create function row_trigger.capture() returns trigger language plpgsql as $$
declare
  queue_id constant bigint := nextval('row_trigger.ids');
  key constant text := '{"id":' || coalesce(new.id, old.id) || '}';
begin
  insert into row_trigger.queue (%(columns)s) values (%(values)s);
  return null;
end $$;
create trigger capture after insert or update or delete on users
  for each row execute function row_trigger.capture();
"""

VALUES = {
    "id": "queue_id",
    "event_id": "('8f0c3d52-1b7e-8a46-9c21-' || lpad(to_hex(queue_id), 12, '0'))::uuid",
    "table_name": "'users'",
    "operation": "tg_op",
    "record_key": "key",
    "payload": "case when tg_op <> 'DELETE' then to_jsonb(new) end",
    "version": "coalesce(new.replication_version, old.replication_version + 1024)",
    "base_version": "old.replication_version",
    "shard": "(hashtext(key) & 15)::smallint",
    "txid": "pg_current_xact_id()::text::bigint",
}


class RowTrigger:
    name = "row-trigger"

    def missing(self, connection: Connection) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self, connection: Connection) -> None:
        installer.install(connection, contour_settings(connection.info.dsn))
        filled = layout.filled(layout.columns(connection), VALUES)
        columns, values = ", ".join(filled), ", ".join(filled.values())
        connection.execute(TABLES)
        connection.execute(STAMP)
        connection.execute(CAPTURE % {"columns": columns, "values": values})
