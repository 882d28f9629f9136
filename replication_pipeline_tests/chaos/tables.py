"""The tables that are written, and how a row comes into each.

``op`` is the id of the statement that wrote the row last. Hot keys are few and written all the time.
"""

from __future__ import annotations

from typing import Final

HOT: Final = 20
COLD: Final = 100_000
UNIQUE: Final = "member"  # a table with one more unique index, whose newest row lives
TABLES: Final = ("register", "parted", "parent", "child", "loose", "strict", "everything", UNIQUE)
CHILDREN: Final = ("child", "loose", "strict")  # cascade, set null, no action

DDL: Final = """
create table register (id bigint primary key, op text, note text);
create table parted (id bigint primary key, op text) partition by hash (id);
create table parted_0 partition of parted for values with (modulus 2, remainder 0);
create table parted_1 partition of parted for values with (modulus 2, remainder 1);
create table parent (id bigint primary key, op text);
create table child (id bigint primary key, op text,
                    parent_id bigint not null references parent on delete cascade);
create table loose (id bigint primary key, op text,
                    parent_id bigint references parent on delete set null);
create table strict (id bigint primary key, op text, parent_id bigint not null references parent);
create table everything (
  id bigint primary key, op text, number numeric, real double precision, yes boolean, bytes bytea,
  document jsonb, text_document json, moment timestamptz, day date, span interval, list int[], name uuid
);
create table member (id bigint primary key, op text, email text unique);

-- Counts what appliers change, row by row; a row that gives way to a newer one may come in once more.
-- Capture writes in their role when it lifts a row.
create table applied (table_name text, id bigint, version bigint, times int);
grant insert on applied to public;
create function count_applied() returns trigger language plpgsql as $$
begin
  if current_setting('application_name') <> 'replicator_consumer' then
    return null;
  end if;
  if tg_op = 'DELETE' then
    insert into public.applied values (tg_argv[0], old.id, old.replication_version, -1);
  else
    insert into public.applied values (tg_argv[0], new.id, new.replication_version, 1);
  end if;
  return null;
end $$;
do $$
declare name text;
begin
  foreach name in array array['register', 'parted_0', 'parted_1', 'parent', 'child', 'loose', 'strict',
                              'everything', 'member'] loop
    execute format('create trigger zz_count_applied after insert or update %s on %I '
                   'for each row execute function count_applied(%L)',
                   case name when 'member' then 'or delete' else '' end, name,
                   split_part(name, '_', 1));
    execute format('alter table %I enable replica trigger zz_count_applied', name);
  end loop;
end $$
"""
# Rows that wait because a newer row has their value.
WAITING: Final = """
select p.record_key from replication.parked_events p
  join member m on m.email = convert_from(p.event, 'UTF8')::json -> 'after' ->> 'email'
               and (to_jsonb(m) ->> 'replication_version')::bigint > p.version
 where p.table_name = 'member' and p.reason in ('unique_conflict', 'displaced')
"""
VALUES: Final = (
    "1.10, 'NaN', true, '\\xdeadbeef', '{\"a\": [1, 2.50]}', '{\"a\":1, \"a\":2}', clock_timestamp(), "
    "current_date, interval '1 mon -3 days', '{1,null,3}', gen_random_uuid()"
)
INSERTS: Final = {
    "register": "insert into register values (%(key)s, %(op)s, %(note)s) on conflict do nothing",
    **{
        table: f"insert into {table} values (%(key)s, %(op)s) on conflict do nothing"
        for table in ("parted", "parent")
    },
    # Each kind of child has parents of its own, so that one's policy does not decide for the others.
    **{
        table: f"insert into {table} select %(key)s, %(op)s, id from parent "
        f"where id <= %(hot)s and id %% 3 = {kind} order by random() limit 1 on conflict do nothing"
        for kind, table in enumerate(CHILDREN)
    },
    "everything": f"insert into everything values (%(key)s, %(op)s, {VALUES}) on conflict do nothing",
    "member": "insert into member values (%(key)s, %(op)s, %(email)s) on conflict do nothing",
}
