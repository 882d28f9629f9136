-- The SQL of schema version 2, all of its files in their order, as it was released; test_upgrade.py installs it.
-- Never changed: what is tested is the way from here.

-- schema/10_roles.sql
-- Roles. All are NOLOGIN groups: a service's own login role is made a member of what it needs.
--
--   replication_owner      owns the schema and the capture functions; nobody logs in as it
--   replication_publisher  claims and marks queue rows
--   replication_consumer   applies remote events to the replicated tables
--   replication_monitor    reads queue, counters and conflicts; changes nothing
--
-- The body runs as the installing role, which becomes a member of replication_owner so that it can
-- hand objects over to it.

do $$
declare
  role_name text;
  lacking boolean;
begin
  if current_setting('server_version_num')::int < 150000 then
    raise exception using errcode = 'feature_not_supported',
      message = format('PostgreSQL %s is too old', current_setting('server_version')),
      hint = 'replication_pipeline needs PostgreSQL 15 or newer.';
  end if;
  if getdatabaseencoding() <> 'UTF8' then
    raise exception using errcode = 'feature_not_supported',
      message = format('the encoding of database %I is %s', current_database(), getdatabaseencoding()),
      hint = 'Events are UTF-8: use a database created with encoding UTF8.';
  end if;
  foreach role_name in array array['replication_owner', 'replication_publisher',
                                   'replication_consumer', 'replication_monitor']
  loop
    begin
      execute format('create role %I nologin', role_name);
    exception when duplicate_object or unique_violation then
      null;  -- made by another contour of the same cluster, or by an earlier run
    end;
  end loop;
  -- From PostgreSQL 16 on, who creates a role is a member that may not act as it.
  if current_setting('server_version_num')::int >= 160000 then
    execute 'select not pg_has_role(current_user, ''replication_owner'', ''usage'') '
            'or not pg_has_role(current_user, ''replication_owner'', ''set'')' into lacking;
    if lacking then
      execute format('grant replication_owner to %I with inherit true, set true', current_user);
    end if;
  elsif not pg_has_role(current_user, 'replication_owner', 'member') then
    execute format('grant replication_owner to %I', current_user);
  end if;
end $$;

-- The apply session switches triggers off for itself (`SET LOCAL session_replication_role`), and
-- the capture functions do so for one rare statement; neither needs a superuser at run time.
grant set on parameter session_replication_role to replication_owner, replication_consumer;

-- schema/20_tables.sql
-- Tables. State invariants are CHECK constraints: a row that can't be explained can't be stored.

create schema if not exists replication;

-- Who this database is. One row. `incarnation` changes when the database is restored from a backup.
create table if not exists replication.contour (
  only_row       boolean primary key default true check (only_row),
  name           text not null check (name ~ '^[a-z][a-z0-9_]{0,30}$'),
  id             integer not null check (id between 1 and 1023),
  incarnation    uuid not null default gen_random_uuid(),
  schema_version integer not null,
  installed_at   timestamptz not null default clock_timestamp(),
  upgraded_at    timestamptz not null default clock_timestamp()
);

do $$
declare
  -- Raised by one whenever a file of this folder changes what is installed.
  files_version constant integer := 2;
  wanted_name constant text := nullif(current_setting('replication.setup_contour', true), '');
  wanted_id constant text := nullif(current_setting('replication.setup_contour_id', true), '');
  present replication.contour;
begin
  select * into present from replication.contour;
  if wanted_name is null or wanted_id is null or wanted_id !~ '^\d{1,4}$' then
    raise exception using errcode = 'invalid_parameter_value',
      message = 'the contour''s name and number are needed',
      hint = 'psql -v contour=a -v contour_id=1 -f sql/00_master_setup.sql';
  end if;
  if present.id is null then
    insert into replication.contour (name, id, schema_version)
    values (wanted_name, wanted_id::integer, files_version);
    return;
  end if;
  if (present.name, present.id) is distinct from (wanted_name, wanted_id::integer) then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('this database is contour %s (id %s), not %s (id %s)',
                       present.name, present.id, wanted_name, wanted_id),
      hint = 'Versions already stamped carry the id; check which database you are connected to.';
  end if;
  if present.schema_version > files_version then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('the database has schema version %s, these files bring only %s',
                       present.schema_version, files_version),
      hint = 'Install the newer release of replication_pipeline that made it.';
  end if;
  update replication.contour
     set schema_version = files_version, upgraded_at = clock_timestamp()
   where schema_version < files_version;
end $$;

-- The tables that are captured and applied. `table_name` is the name in events and topics; it
-- stays when the table is renamed. `listed_attnums` are the numbers of the columns in `include` or
-- `exclude`, to know them after a rename; `compiled_slot` is where the capture function writes; `granted` are the rights that set-up gave and removal takes.
create table if not exists replication.replicated_tables (
  table_id    integer generated always as identity primary key,
  table_name  text not null unique,
  relation    regclass not null unique,
  key_columns text[] not null check (cardinality(key_columns) > 0),
  full_before boolean not null default false,
  include     text[],
  exclude     text[],
  compiled_slot smallint,
  listed_attnums smallint[],
  granted     text[] not null default '{}',
  capture_truncate boolean not null default false,
  fingerprint text not null,
  set_up_at   timestamptz not null default clock_timestamp()
);

-- The queue. Written by capture triggers in the user's transaction; claimed by publishers.
-- States:  waiting    not published, parked_at null
--          parked     not published, parked_at set; only an operator brings it back
--          published  published, published_at set
-- `operation` is INSERT, UPDATE, DELETE or SNAPSHOT. `payload` is null for a DELETE, and for a row too
-- large to be written as an event, which is parked from the beginning. Unlike elsewhere no CHECK says
-- so: PostgreSQL parses them anew in every INSERT, and five cost a small transaction 25 µs.
--
-- A ring of four partitions: capture writes into the active one, retention empties a whole partition
-- when all in it is published and old (45_queue_ring.sql). No partition is ever made or dropped while
-- the system runs, so no write can find its partition missing.
--
-- There is no primary key: ids come from a sequence, all that asks for one row asks by (shard, id)
-- while it waits, and one index less is a seventh of the cost of capture. Marking a row published
-- adds to no index at all.
do $$ begin
  -- Before version 2 the queue was one table.
  if (select relkind from pg_class where oid = to_regclass('replication.replication_queue')) = 'r' then
    drop view if exists replication.status;  -- made again by 60_monitoring.sql
    alter table replication.replication_queue rename to replication_queue_of_version_1;
    alter sequence replication.replication_queue_id_seq rename to replication_queue_id_seq_of_version_1;
    drop index if exists replication.replication_queue_waiting, replication.replication_queue_parked,
      replication.replication_queue_published;
  end if;
end $$;

create sequence if not exists replication.replication_queue_id_seq;
create table if not exists replication.replication_queue (
  id           bigint not null default nextval('replication.replication_queue_id_seq'),
  event_id     uuid not null,
  table_name   text not null,
  operation    text not null,
  record_key   text not null,
  payload      json,
  before       json,
  version      bigint not null,
  base_version bigint,
  shard        smallint not null,
  txid         bigint not null,
  created_at   timestamptz not null default clock_timestamp(),
  published    boolean not null default false,
  published_at timestamptz,
  attempts     integer not null default 0,
  last_error   text,
  parked_at    timestamptz,
  ring_slot    smallint not null default 0
) partition by list (ring_slot);

create table if not exists replication.replication_queue_0
  partition of replication.replication_queue (ring_slot default 0) for values in (0);
create table if not exists replication.replication_queue_1
  partition of replication.replication_queue (ring_slot default 1) for values in (1);
create table if not exists replication.replication_queue_2
  partition of replication.replication_queue (ring_slot default 2) for values in (2);
create table if not exists replication.replication_queue_3
  partition of replication.replication_queue (ring_slot default 3) for values in (3);

-- Where capture writes now, and since when.
create table if not exists replication.queue_ring (
  only_row     boolean primary key default true check (only_row),
  active_slot  smallint not null default 0 check (active_slot between 0 and 3),
  active_since timestamptz not null default clock_timestamp()
);
insert into replication.queue_ring default values on conflict do nothing;

-- Claims read one shard in id order; marking and the two monitoring statements use it as well.
create index if not exists replication_queue_waiting
  on replication.replication_queue (shard, id) where not published;
-- Fences: an event waits while an earlier one of its key is parked. A hash, as keys may be long.
create index if not exists replication_queue_parked
  on replication.replication_queue (hashtext(record_key)) where parked_at is not null;
-- Retention asks for the age of published rows; they lie about in the order of their publishing.
create index if not exists replication_queue_published
  on replication.replication_queue using brin (published_at);

do $$
declare
  leaf regclass;
begin
  for leaf in select inhrelid from pg_inherits where inhparent = 'replication.replication_queue'::regclass
  loop
    -- Every published row dies once (waiting -> published), so vacuum by number, not by share.
    execute format(
      'alter table %s set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 20000, '
      'autovacuum_vacuum_insert_scale_factor = 0.0, autovacuum_vacuum_insert_threshold = 200000, '
      'autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 100000)', leaf);
  end loop;
  if to_regclass('replication.replication_queue_of_version_1') is not null then
    perform setval('replication.replication_queue_id_seq',
                   (select last_value + 1 from replication.replication_queue_id_seq_of_version_1), false);
    insert into replication.replication_queue
      (id, event_id, table_name, operation, record_key, payload, before, version, base_version, shard,
       txid, created_at, published, published_at, attempts, last_error, parked_at)
    select id, event_id, table_name, operation, record_key, payload, before, version, base_version,
           shard, txid, created_at, published, published_at, attempts, last_error, parked_at
      from replication.replication_queue_of_version_1;
    drop table replication.replication_queue_of_version_1;
  end if;
  alter table replication.replicated_tables
    add column if not exists include text[], add column if not exists exclude text[],
    add column if not exists listed_attnums smallint[],
    add column if not exists compiled_slot smallint,
    add column if not exists granted text[] not null default '{}',
    add column if not exists capture_truncate boolean not null default false;
  alter table if exists replication.replication_tombstones add column if not exists long_key text;
end $$;

-- One row for each shard of keys. Whoever locks it may claim the shard's events; nobody else.
create table if not exists replication.publish_shards (
  shard smallint primary key
);
insert into replication.publish_shards (shard)
select generate_series(0, 15) on conflict do nothing;

-- Deleted keys and the version of their newest delete. A write at or below it must not come back.
-- `unsettled` marks a delete that arrived for a row nobody could see: a transaction that was open
-- then may still bring the row in, so the key is looked at once more after all those have ended.
-- `record_key` is tombstone_key() of the key: an index takes no more than 2,700 bytes. `long_key` is
-- the key itself where that differs.
create table if not exists replication.replication_tombstones (
  table_name     text not null,
  record_key     text not null,
  version        bigint not null check (version > 0),
  deleted_at     timestamptz not null default clock_timestamp(),
  unsettled      boolean not null default false,
  settle_horizon xid8,
  long_key       text,
  primary key (table_name, record_key)
);
create or replace function replication.tombstone_key(record_key text)
returns text language sql immutable parallel safe as $$
  select case when octet_length(record_key) <= 1000 then record_key else 'md5:' || md5(record_key) end
$$;
-- Before version 2 long keys stood there as they are.
update replication.replication_tombstones
   set long_key = record_key, record_key = replication.tombstone_key(record_key)
 where octet_length(record_key) > 1000 and long_key is null;
create index if not exists replication_tombstones_version
  on replication.replication_tombstones (table_name, version);
create index if not exists replication_tombstones_unsettled
  on replication.replication_tombstones (table_name) where unsettled;

-- Events that this contour has dealt with. Second line of defence: versions alone make a repeated
-- event harmless.
create table if not exists replication.processed_events (
  event_id     uuid primary key,
  processed_at timestamptz not null default clock_timestamp()
);
create index if not exists processed_events_age
  on replication.processed_events using brin (processed_at);

-- Where each partition is to be read next. Moved in the transaction that applies the events.
create table if not exists replication.consumer_offsets (
  topic          text not null,
  partition      integer not null check (partition >= 0),
  next_offset    bigint not null check (next_offset >= 0),
  high_watermark bigint not null default 0,
  updated_at     timestamptz not null default clock_timestamp(),
  primary key (topic, partition)
) with (fillfactor = 50);

-- Remote events that can't be applied yet, or at all, with the reason. Tried again by themselves
-- when the reason may have gone; never dropped.
create table if not exists replication.parked_events (
  id           bigint generated always as identity primary key,
  topic        text not null,
  partition    integer not null,
  kafka_offset bigint not null,
  event_id     uuid,
  table_name   text,
  record_key   text,
  version      bigint,
  reason       text not null check (reason in ('missing_parent', 'referenced', 'clock_skew',
                 'unknown_column', 'unknown_table', 'unique_conflict', 'constraint', 'bad_value',
                 'malformed')),
  detail       text not null default '',
  event        bytea not null,
  attempts     integer not null default 1 check (attempts > 0),
  parked_at    timestamptz not null default clock_timestamp(),
  retried_at   timestamptz not null default clock_timestamp(),
  unique (topic, partition, kafka_offset)
);
create index if not exists parked_events_table on replication.parked_events (table_name, id);

-- Concurrent writes of one row, one of which had to give way, and how it was decided.
create table if not exists replication.replication_conflicts (
  id               bigint generated always as identity primary key,
  table_name       text not null,
  record_key       text not null,
  event_id         uuid not null,
  incoming_contour text not null,
  incoming_version bigint not null,
  incoming_base    bigint,
  current_version  bigint not null,
  winner           text not null check (winner in ('incoming', 'current')),
  incoming_row     json,
  current_row      json,
  recorded_at      timestamptz not null default clock_timestamp()
);
create index if not exists replication_conflicts_age
  on replication.replication_conflicts (recorded_at);

-- Counters of every worker, moved in the transaction of each batch, so that they are exact however
-- a worker ends. Finished workers are folded into one row per role by the cleanup.
create table if not exists replication.workers (
  instance        text primary key,
  role            text not null check (role in ('publisher', 'applier')),
  started_at      timestamptz not null default clock_timestamp(),
  heartbeat_at    timestamptz not null default clock_timestamp(),
  stopped_at      timestamptz,
  last_success_at timestamptz,
  batches         bigint not null default 0,
  processed       bigint not null default 0,
  failed          bigint not null default 0,
  applied         bigint not null default 0,
  skipped         bigint not null default 0,
  conflicts       bigint not null default 0,
  bytes           bigint not null default 0
) with (fillfactor = 50);

-- schema/30_clock.sql
-- Row versions: a hybrid logical clock per row (see replication_pipeline/domain/version.py).
--
--   version = max(clock in µs, predecessor's µs + 1) << 10 | contour id
--
-- clock_timestamp() and not now(): of two transactions, the one that writes the row last must get
-- the greater version, however early it began. The predecessor rule keeps versions of a row
-- ascending when the clock jumps back. The contour's id is compiled in, so that stamping a row
-- reads no table. `clock_offset` shifts the clock; only tests of skew use it.
--
-- An inserted row gets its version from the column's default: a trigger costs four times as much a row,
-- and its WHEN clause, which PostgreSQL parses anew in every statement, as much as the whole row. What
-- an application gave instead is put right by the capture trigger, see 42_capture_functions.sql. An updated row
-- needs a trigger.

-- The clock as an SQL expression in µs, every name with its schema: it runs with the search_path of
-- whoever writes. Double precision holds microseconds exactly until 2255 and
-- is several times faster than numeric.
create or replace function replication.clock_expression(clock_offset interval)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select '(pg_catalog.date_part(''epoch'', pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000000)'
         '::pg_catalog.int8'
         || case when clock_offset = '0' then ''
                 else format(' operator(pg_catalog.+) %s', (extract(epoch from clock_offset) * 1000000)::bigint) end
$$;

create or replace function replication.install_clock(clock_offset interval default interval '0')
returns void language plpgsql set search_path = pg_catalog, pg_temp as $install$
declare
  contour_id constant integer := (select id from replication.contour);
  clock constant text := replication.clock_expression(clock_offset);
  registered regclass;
begin
  execute format($sql$
    create or replace function replication.next_version(predecessor bigint)
    returns bigint language sql volatile parallel safe as
    $body$ select (greatest(%s, (predecessor operator(pg_catalog.>>) 10) operator(pg_catalog.+) 1)
                     operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8 $body$ $sql$, clock, contour_id);

  -- Clock of this contour in µs.
  execute format('create or replace function replication.clock() returns bigint language sql volatile '
                 'parallel safe as $body$ select %s $body$', clock);

  -- BEFORE UPDATE, of every replicated table. Runs as the writing role, which needs no right for it:
  -- nothing but pg_catalog is called. The name of the trigger sorts last, so that it sees the row as
  -- it will be stored.
  --
  -- An UPDATE that changes nothing keeps its version: it is no event, and must not win over a real
  -- change made elsewhere. *= compares images, so it needs no equality operator (json, point).
  execute format($sql$
    create or replace function replication.stamp_update() returns trigger language plpgsql as $body$
    begin
      new.replication_version := old.replication_version;
      if not (new operator(pg_catalog.*=) old) then
        new.replication_version := (greatest(%s, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8;
      end if;
      return new;
    end $body$ $sql$, clock, contour_id);

  -- For tables with columns that don't count: generated ones, which a BEFORE trigger does not see
  -- computed yet, and those that are not captured. The argument is a JSON object of them, all null.
  execute format($sql$
    create or replace function replication.stamp_update_of_captured() returns trigger language plpgsql
    as $body$
    begin
      new.replication_version := old.replication_version;
      if not (pg_catalog.jsonb_populate_record(new, tg_argv[0]::pg_catalog.jsonb)
              operator(pg_catalog.*=)
              pg_catalog.jsonb_populate_record(old, tg_argv[0]::pg_catalog.jsonb)) then
        new.replication_version := (greatest(%s, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8;
      end if;
      return new;
    end $body$ $sql$, clock, contour_id);

  for registered in
    select relation from replication.replicated_tables t join pg_class c on c.oid = t.relation
     where pg_has_role(current_user, c.relowner, 'usage')  -- else the end of 50_setup_table.sql says so
  loop
    perform replication.put_stamps(registered, clock_offset);
  end loop;
end $install$;

-- The default and the BEFORE trigger of one table. PostgreSQL copies the trigger of a partitioned table
-- to every partition, later ones as well.
create or replace function replication.put_stamps(relation regclass, clock_offset interval default '0')
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  not_captured constant jsonb := (
    select jsonb_object_agg(a.attname, null)
      from pg_attribute a
      join pg_type y on y.oid = a.atttypid
      join replication.replicated_tables t on t.relation = a.attrelid
     where a.attrelid = put_stamps.relation and a.attnum > 0 and not a.attisdropped
       and a.attname <> 'replication_version' and y.typtype <> 'd'  -- a domain may refuse null
       and not exists (select from replication.data_columns(t) c where c.attnum = a.attnum));
begin
  -- Nullable: a program that knows all columns of a table may well insert a null here.
  execute format('alter table %s alter column replication_version drop not null, '
                 'alter column replication_version set default (((%s) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8)',
                 relation, replication.clock_expression(clock_offset), (select id from replication.contour));
  execute format('create or replace trigger zz_replication_stamp_update before update on %s '
                 'for each row execute function replication.%s', relation,
                 case when not_captured is null then 'stamp_update()'
                      else format('stamp_update_of_captured(%L)', not_captured) end);
end $$;

-- schema/40_wire_forms.sql
-- Wire forms: how a column's value is written into an event (docs/events.md). Expressions are generated
-- from the catalog; nothing here reads a row.

create or replace function replication.base_type(type_id oid)
returns oid language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive chain as (
    select oid, typtype, typbasetype from pg_type where oid = type_id
    union all
    select t.oid, t.typtype, t.typbasetype from pg_type t join chain on t.oid = chain.typbasetype
     where chain.typtype = 'd'
  )
  select oid from chain where typtype <> 'd'
$$;

-- SQL that turns one column into its wire form: a JSON scalar where that is lossless, an array for
-- plain one-dimensional arrays, and PostgreSQL's text in a string for all else.
create or replace function replication.wire_expression(reference text, type_id oid)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  base constant oid := replication.base_type(type_id);
  element constant oid := (select typelem from pg_type where oid = base and typsubscript = 'array_subscript_handler'::regproc);
  element_kind constant "char" := (select typtype from pg_type where oid = element);
  -- A cast to text may be the work of a user: it would decide what travels, and run with our rights.
  -- format() calls the output function.
  as_text constant text := case when base < 16384 then reference || '::text'
    else format('case when num_nulls(%1$s) = 0 then format(''%%s'', %1$s) end', reference) end;
begin
  if base in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'text'::regtype,
              'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype) then
    return reference;
  elsif base in ('float4'::regtype, 'float8'::regtype) then  -- JSON numbers have no negative zero
    return format('case when %1$s = 0 and %1$s::text = ''-0'' then to_json(''-0''::text) else to_json(%1$s) end',
                  reference);
  elsif base = 'timestamptz'::regtype then  -- UTC by the pinned TimeZone
    return format('case when %1$s >= ''0001-01-01Z''::timestamptz and %1$s < ''10000-01-01Z''::timestamptz '
                  'then replace(replace(%1$s::text, '' '', ''T''), ''+00'', ''Z'') else %1$s::text end',
                  reference);
  elsif base = 'timestamp'::regtype then
    return format('case when %1$s >= ''0001-01-01''::timestamp and %1$s < ''10000-01-01''::timestamp '
                  'then replace(%1$s::text, '' '', ''T'') else %1$s::text end', reference);
  elsif base = 'bytea'::regtype then
    return format('translate(encode(%s, ''base64''), E''\n'', '''')', reference);
  elsif element in ('json'::regtype, 'jsonb'::regtype) or element_kind in ('c', 'd') then
    return as_text;
  elsif element <> 0 then
    return format('case when array_ndims(%1$s) is null or (array_ndims(%1$s) = 1 and array_lower(%1$s, 1) = 1) '
                  'then %2$s else to_json(%3$s) end', reference,
                  case when element in ('float4'::regtype, 'float8'::regtype)
                       then format(
                         'case when ''0'' = any(%1$s) then regexp_replace(to_json(%1$s)::text, '
                         '''([[,])-0(?=[],])'', ''\1"-0"'', ''g'')::json else to_json(%1$s) end', reference)
                       when element in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                                        'bool'::regtype, 'text'::regtype, 'varchar'::regtype,
                                        'bpchar'::regtype, 'uuid'::regtype)
                       then format('to_json(%s)', reference)
                       else format('to_json(%s::text[])', case when base < 16384 then reference else as_text end)
                  end, as_text);
  end if;
  return as_text;
end $$;

-- schema/41_capture_statements.sql
-- Capture statements: generators of the SQL that queues the changes of one statement. They turn a
-- registered table into text; 42_capture_functions.sql compiles it and decides which one runs.

-- The columns that travel: all but the version, generated ones, and what the table's lists leave out.
-- Key columns always travel.
create or replace function replication.data_columns(t replication.replicated_tables)
returns table (attnum smallint, attname name, type_id oid)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select attnum, attname, atttypid
    from pg_attribute
   where attrelid = t.relation and attnum > 0 and not attisdropped and attgenerated = ''
     and attname <> 'replication_version'
     and (attname = any(t.key_columns)
          or (t.include is null or attname = any(t.include))
             and (t.exclude is null or attname <> all(t.exclude)))
   order by attnum
$$;

-- `n."id" as "id", n."balance"::text as "balance", …`
create or replace function replication.projection(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%s as %I', replication.wire_expression(format('%s.%I', alias, attname), type_id),
                           attname), ', ' order by attnum)
    from replication.data_columns(t)
$$;

-- SQL of the canonical key: a JSON object of the key columns, in key order, no white space.
create or replace function replication.key_expression(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(
           format('%L || %s', case k.position when 1 then '{' else ',' end || to_json(k.name) || ':',
                  case when replication.base_type(c.type_id)
                            in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype)
                       then format('%s.%I::text', alias, k.name)
                       else format('to_json(%s)::text',
                                   replication.wire_expression(format('%s.%I', alias, k.name), c.type_id))
                  end),
           ' || ' order by k.position) || ' || ''}'''
    from unnest(t.key_columns) with ordinality as k(name, position)
    join replication.data_columns(t) c on c.attname = k.name
$$;

-- A list over the key columns, such as `n.a as __k1, n.b as __k2`: in `form`, %1$s is the position of a column
-- and %2$I its name.
create or replace function replication.key_list(t replication.replicated_tables, form text, separator text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format(form, k.position, k.name), separator order by k.position)
    from unnest(t.key_columns) with ordinality as k(name, position)
$$;

-- Both sets of names equal, as `n.a = o.a and n.b = o.b`, in forms as of key_list(). A type of the user's with an implicit cast may have no single =.
create or replace function replication.key_match(t replication.replicated_tables, one text, other text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(
           format(case when c.type_id >= 16384
                            and exists (select from pg_cast where castsource = c.type_id and castcontext = 'i')
                       then 'format(''%%s'', %s) = format(''%%s'', %s)' else '%s = %s' end,
                  format(one, k.position, k.name), format(other, k.position, k.name)),
           ' and ' order by k.position)
    from unnest(t.key_columns) with ordinality as k(name, position)
    join replication.data_columns(t) c on c.attname = k.name
$$;

-- A number of 64 bits for a key, with a salt that is new in each statement. The exclusive or over two
-- sets of keys is equal when the sets are, and else by a chance of 2^-64 that nobody can steer. (Of the
-- text: hashint8extended() keeps 32 bits, and gives 0 and 2^32 + 1 the same.)
create or replace function replication.key_hash(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('hashtextextended(%s, salt)',
                case when count(*) = 1 and bool_and(replication.base_type(c.type_id)
                                                      in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype))
                     then format('%s.%I::text', alias, min(c.attname::text))
                     else replication.key_expression(t, alias) end)
    from replication.data_columns(t) c where c.attname = any(t.key_columns)
$$;

-- SQL of the stored size of the columns that may be large; null where none may.
create or replace function replication.size_expression(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('coalesce(pg_column_size(%s.%I), 0)', alias, c.attname), ' + ')
    from replication.data_columns(t) c
    join pg_attribute a on a.attrelid = t.relation and a.attnum = c.attnum
   where a.attlen = -1
     and not (replication.base_type(c.type_id) in ('varchar'::regtype, 'bpchar'::regtype)
              and a.atttypmod between 0 and 1000)
     and not (replication.base_type(c.type_id) = 'numeric'::regtype and a.atttypmod >= 0)
$$;

-- Whether no row of `n`, the new ones, or `o`, the old ones, is so large that its image may not fit into
-- 1 GB: 256 kB as stored, compressed, is far from that. Of old rows without images only keys matter.
create or replace function replication.small_expression(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(case when alias = 'n' or t.full_before then
    format('not exists (select from %s %s where ', case alias when 'n' then 'new_rows' else 'old_rows' end, alias)
    || replication.size_expression(t, alias) || ' > 262144)' end, 'true')
$$;

-- Whether the common way will do for the changes at hand, as SQL.
--   * No row is so large that its image may not fit into 1 GB.
--   * INSERT: all versions come from the column's default, and are above every tombstone; the
--     transaction sees the newest tombstones.
--   * UPDATE: the old and the new keys are the same, and every new version is above every old one. So
--     each row did change, once, and no key has a version from another row.
--   * No trigger has written to the table within the statement, see `nested`.
create or replace function replication.guard_expression(t replication.replicated_tables, operation text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select concat_ws(' and ',
    case when operation <> 'DELETE' then
      format('current_setting(''replication.nested_%s'', true) is distinct from ''yes''', t.table_id) end,
    case operation
      when 'INSERT' then format(
        'current_setting(''transaction_isolation'') = ''read committed'' '
        'and not exists (select from new_rows n where (n.replication_version & 1023 = %1$s '
        'and n.replication_version > greatest(earliest, (select max(s.version) '
        'from replication.replication_tombstones s where s.table_name = %2$L)) '
        'and n.replication_version >> 10 <= clock) is not true%3$s)',
        (select id from replication.contour), t.table_name,
        ' or ' || replication.size_expression(t, 'n') || ' > 262144')
      when 'UPDATE IN PLACE' then format(
        '%3$s and %4$s and (select (bit_xor(%1$s), min(n.replication_version) > '
        '(select max(o.replication_version) from old_rows o)) from new_rows n) '
        '= (select (bit_xor(%2$s), true) from old_rows o)',
        replication.key_hash(t, 'n'), replication.key_hash(t, 'o'),
        replication.small_expression(t, 'n'), replication.small_expression(t, 'o'))
      when 'DELETE' then replication.small_expression(t, 'o') end)
$$;

-- A row's image as JSON; with `largest`, none for a row whose size is above it.
create or replace function replication.image_expression(
  t replication.replicated_tables, alias text, largest bigint)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format(case when largest is null then '%s' else 'case when %2$s <= %3$s then %1$s end' end,
                format('(select row_to_json(__row.*) from (select %s) __row)', replication.projection(t, alias)),
                coalesce(replication.size_expression(t, alias), '0'), largest)
$$;

-- Keys of numbers and the like are short; only others need the care of tombstone_key().
create or replace function replication.buried_key(t replication.replicated_tables, key text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when bool_and(y.typlen > 0) then key else format('replication.tombstone_key(%s)', key) end
    from replication.data_columns(t) c join pg_type y on y.oid = c.type_id
   where c.attname = any(t.key_columns)
$$;

-- The common end of a capture statement: events into the queue, deleted keys into the tombstones.
create or replace function replication.queue_insert(
  t replication.replicated_tables, events text, buries boolean, may_lack_image boolean, seed text, txid text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when buries then format($sql$,
__buried as (
  insert into replication.replication_tombstones as s (table_name, record_key, long_key, version)
  select %1$L, %2$s, nullif(__key, %2$s), __version from __events where __operation = 'DELETE'
  on conflict on constraint replication_tombstones_pkey
  do update set version = greatest(s.version, excluded.version), deleted_at = excluded.deleted_at
)$sql$, t.table_name, replication.buried_key(t, '__key')) else '' end || format($sql$
insert into replication.replication_queue_%1$s
  (id, event_id, table_name, operation, record_key, payload, before, version, base_version, shard, txid%2$s)
select __id, (%3$s || to_hex(140737488355328 + __id))::uuid, %4$L, __operation, __key, __payload, __before,
       __version, __base, (hashtext(__key) & 15)::smallint, %5$s%6$s
  from %7$s$sql$,
    (select active_slot from replication.queue_ring),
    case when may_lack_image then ', parked_at, last_error' else '' end,
    seed, t.table_name, txid,
    case when may_lack_image then $sql$,
       case when __payload is null and __operation <> 'DELETE' then clock_timestamp() end,
       case when __payload is null and __operation <> 'DELETE'
            then 'the row is too large to be written as an event' end$sql$ else '' end,
    events)
$$;

-- The INSERT that queues the changes of one statement.
--   operation  INSERT; UPDATE; UPDATE IN PLACE, one that changed no key; DELETE; TRUNCATE, all rows of
--              the partition `source` as deletes
--   careful    INSERT and UPDATE: the form for everything that guard_expression() tells of. It compares
--              each key with its tombstone and raises versions, by updating the replicated table
--              itself; the caller switches triggers off around it (session_replication_role, granted
--              to this role)
--   largest    rows with more bytes than this are queued without their image, parked
--   seed, txid, earliest
--              SQL of the first 20 digits of the statement's event ids, of the transaction id, and of the
--              lowest version that a row of an INSERT may have
--   guarded    queue nothing when guard_expression() says no; the caller sees by FOUND
--
-- The table's columns may be called anything: they appear only behind n., o. or t., and the names of
-- the statement's own begin with two underscores.
create or replace function replication.capture_statement(
  t replication.replicated_tables, operation text, careful boolean, largest bigint default null,
  source text default 'old_rows', seed text default '$1', txid text default '$2',
  earliest text default '$3', guarded boolean default false)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  image constant text := replication.image_expression(t, 'n', largest);
  old_image constant text := case when t.full_before then replication.image_expression(t, 'o', largest)
                                  else 'null::json' end;
  new_rows text := format(
    'select %s as __key, n.replication_version as __version, %s as __payload, %s from new_rows n',
    replication.key_expression(t, 'n'), image, replication.key_list(t, 'n.%2$I as __k%1$s', ', '));
  old_rows text := format(
    'select %s as __key, o.replication_version as __version, %s as __before, %s from %s o',
    replication.key_expression(t, 'o'), old_image, replication.key_list(t, 'o.%2$I as __k%1$s', ', '),
    source);
  -- yields __key, __payload, __before, __version, __base, __operation, and but for IN PLACE __k1, …
  changes text;
  same_row constant text := replication.key_match(t, 't.%2$I', 'c.__k%1$s');
  unchanged text := case
    when t.include is null and t.exclude is null then 'o.* *= n.*'
    else format('%s::text = %s::text', replication.image_expression(t, 'o', null),
                replication.image_expression(t, 'n', null)) end;
  guard constant text := case when guarded then replication.guard_expression(t, operation) end;
begin
  if largest is not null and replication.size_expression(t, 'n') is not null then
    -- Comparing would be too much as well: with its old version, such a row counts as unchanged.
    unchanged := format('case when greatest(%s, %s) > %s then true else %s end',
                        replication.size_expression(t, 'n'), replication.size_expression(t, 'o'), largest,
                        unchanged);
  end if;
  if operation = 'UPDATE' then
    -- A row that stayed as it was is on both sides. So is what came in between, where a statement
    -- changed a row twice, as two cascades do.
    new_rows := new_rows || format(
      ' where not exists (select from old_rows o where o.replication_version = n.replication_version and %s)',
      unchanged);
    old_rows := old_rows || format(
      ' where not exists (select from new_rows n where o.replication_version = n.replication_version and %s)',
      unchanged);
  end if;
  changes := case operation
    when 'INSERT' then format(
      'select __n.*, null::json as __before, null::bigint as __base, ''INSERT'' as __operation from (%s) __n',
      new_rows)
    when 'UPDATE IN PLACE' then format(
      'select %s as __key, %s as __payload, %s as __before, n.replication_version as __version, '
      '       o.replication_version as __base, ''UPDATE'' as __operation '
      '  from new_rows n full join old_rows o on %s',  -- no nested loop, whatever the cached plan thinks
      replication.key_expression(t, 'n'), image, old_image, replication.key_match(t, 'n.%2$I', 'o.%2$I'))
    when 'UPDATE' then format(
      'select coalesce(__n.__key, __o.__key) as __key, __n.__payload, __o.__before, '
      '       case when __n.__key is null then replication.next_version(__o.__version) '
      '            else __n.__version end as __version, __o.__version as __base, %4$s, '
      '       case when __o.__key is null then ''INSERT'' when __n.__key is null then ''DELETE'' '
      '            else ''UPDATE'' end as __operation '
      '  from (%1$s) __n full join (%2$s) __o on %3$s',
      new_rows, old_rows, replication.key_match(t, '__n.__k%1$s', '__o.__k%1$s'),
      replication.key_list(t, 'coalesce(__n.__k%1$s, __o.__k%1$s) as __k%1$s', ', '))
    else format(
      'select __o.__key, null::json as __payload, __o.__before, %2$s, '
      '       replication.next_version(__o.__version) as __version, __o.__version as __base, '
      '       ''DELETE'' as __operation from (%1$s) __o',
      old_rows, replication.key_list(t, '__o.__k%1$s', ', '))
    end;
  if operation in ('UPDATE', 'DELETE') then
    -- A trigger, or another part of the statement, may have brought a deleted key back; then the event
    -- of that tells the end of the story.
    changes := format(
      'select * from (%s) c where c.__operation <> ''DELETE'' or not exists (select from %s t where %s)',
      changes, t.relation, same_row);
  end if;

  if not careful then
    changes := format('select nextval(''replication.replication_queue_id_seq'') as __id, c.* from (%s) c%s',
                      changes, ' where ' || guard);
    if operation in ('INSERT', 'UPDATE IN PLACE') then
      return replication.queue_insert(t, format('(%s) __e', changes), false, largest is not null, seed, txid);
    end if;
    return format('with __events as (%s)', changes)
           || replication.queue_insert(t, '__events', true, largest is not null, seed, txid);
  end if;
  -- A new key is compared with its tombstone, a key that changed hands with its former row. An inserted
  -- row with a version that is not of this contour and statement was given it by the application. A row
  -- that is no longer at its version was changed by a trigger since; that change has its own event.
  return format($sql$
with __changes as materialized (
  select c.*, (greatest(s.version, c.__base) >> 10) + 1 as __lifted_clock, %6$s as __forged
    from (%1$s) c
    left join replication.replication_tombstones s
      on s.table_name = %2$L and s.record_key = %5$s
   where c.__operation = 'DELETE' or exists (
     select from %3$s t where %4$s and t.replication_version is not distinct from c.__version)
),
__lifted as (
  update %3$s t
     set replication_version = greatest(c.__lifted_clock, case when c.__forged then replication.clock() end)
                               << 10 | (select id from replication.contour)
    from __changes c
   where %4$s and c.__operation <> 'DELETE'
     and (c.__forged or c.__version >> 10 < c.__lifted_clock)
     and t.replication_version is not distinct from c.__version
  returning c.__key, t.replication_version as __version
),
__events as (
  select nextval('replication.replication_queue_id_seq') as __id, c.__key, c.__payload, c.__before,
         coalesce(l.__version, c.__version) as __version, c.__base, c.__operation
    from __changes c left join __lifted l on l.__key = c.__key
   order by c.__operation <> 'DELETE'
)$sql$,
    changes, t.table_name, t.relation, same_row, replication.buried_key(t, 'c.__key'),
    case when operation = 'INSERT'
         then format('coalesce(c.__version & 1023 <> %s or c.__version < %s '
                     'or c.__version >> 10 > replication.clock(), true)',
                     (select id from replication.contour), earliest)
         else 'false' end)
    || replication.queue_insert(t, '__events', operation = 'UPDATE', largest is not null, seed, txid);
end $$;

-- Where a deleted key lives again, and the new row's version is not above the old one's because the
-- clock has been set back: raises it, in the row and in its event where that is queued already.
create or replace function replication.revive_statement(t replication.replicated_tables)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($sql$
with __found as materialized (
  select t.replication_version as __former, o.replication_version as __base, %5$s
    from old_rows o join %1$s t on %2$s
   where coalesce(t.replication_version, 0) <= o.replication_version
     for update of t
),
__lifted as (
  update %1$s t
     set replication_version = ((c.__base >> 10) + 1) << 10 | (select id from replication.contour)
    from __found c where %7$s
  returning %3$s as __key, %4$s as __payload, null::json as __before, t.replication_version as __version,
            c.__base, c.__former, 'UPDATE' as __operation
),
__raised as (
  update replication.replication_queue q set version = l.__version
    from __lifted l
   where q.shard = hashtext(l.__key) & 15 and q.txid = $2 and q.table_name = %6$L and q.record_key = l.__key and q.version = l.__former
     and not q.published
  returning q.record_key
)$sql$,
    t.relation, replication.key_match(t, 't.%2$I', 'o.%2$I'), replication.key_expression(t, 't'),
    replication.image_expression(t, 't', null), replication.key_list(t, 't.%2$I as __k%1$s', ', '),
    t.table_name, replication.key_match(t, 't.%2$I', 'c.__k%1$s'))
    || replication.queue_insert(
         t, '(select nextval(''replication.replication_queue_id_seq'') as __id, c.* from __lifted c '
            'where c.__key not in (select record_key from __raised)) __e',
         false, false, '$1', '$2')
$$;

-- Locks the tombstones of a statement's new keys, making them where there are none. Version 1 is older
-- than any write: such a row buries nothing.
create or replace function replication.lock_statement(t replication.replicated_tables, operation text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($sql$
insert into replication.replication_tombstones as s (table_name, record_key, long_key, version)
select %L, replication.tombstone_key(k.key), nullif(k.key, replication.tombstone_key(k.key)), 1
  from (select %s as key from new_rows n %s) k order by 2
on conflict on constraint replication_tombstones_pkey do update set version = s.version$sql$,
    t.table_name, replication.key_expression(t, 'n'),
    case when operation = 'UPDATE' then format('where not exists (select from old_rows o where %s)',
      replication.key_match(t, 'n.%2$I', 'o.%2$I'))
    else '' end)
$$;

-- schema/42_capture_functions.sql
-- Capture: one AFTER STATEMENT trigger per operation writes a whole statement's changes at once.
--
-- Invariants
--   * In the user's transaction: an event exists exactly when its change is committed.
--   * Values travel as text that PostgreSQL made under pinned settings; forms as in docs/events.md.
--   * A key never lives at or below its tombstone: an inserted row whose version is not above the
--     tombstone of its key (a skewed clock, or a delete that committed while the insert waited for
--     it) is lifted above it, row and event alike, in one statement. So is a row whose version the
--     application gave.
--   * A column that was added, dropped, renamed or retyped is seen by the next statement.
--   * Nothing here can fail because of a value.
--   * Within a statement, the delete of a key comes before the insert of another.
--
-- The statements are generated for each table by 41_capture_statements.sql and compiled into one function
-- per table, replication.capture_<table_id>(). When the table's columns have changed since, the same
-- generator makes the statement on the fly until refresh_capture() compiles it again.
--
-- Cost decides the form (docs/capture-cost.md): no CTE on the common ways, because one with nextval()
-- is materialized; event ids without random numbers; the active partition of the queue by name, because
-- routing rows to it costs a tenth of all.

-- The shape of a table as a short text; changes with every change of a column.
--
-- Declared IMMUTABLE on purpose, although it reads the catalog: PostgreSQL then computes it while
-- planning and keeps it in the cached plan, and throws that plan away when the table is altered.
-- The check on every statement therefore costs nothing. It holds only in a query that also reads
-- the table or one of its transition tables, which is what ties the plan to the table.
create or replace function replication.table_fingerprint(relation regclass)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select md5(concat(c.oid, ':', n.nspname, ':', c.relname, ':', k.conkey, ':', string_agg(
           concat_ws(':', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), ','
           order by a.attnum)))
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid
    left join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
   where c.oid = relation and a.attnum > 0 and not a.attisdropped
   group by c.oid, n.nspname, c.relname, k.conkey
$$;

-- Column names after renames: a listed column that is gone by its name is looked for by its number.
create or replace function replication.current_names(relation regclass, names text[], attnums smallint[])
returns text[] language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when names is not null then coalesce(array_agg(coalesce(
           (select a.attname from pg_attribute a
             where a.attrelid = relation and a.attname = l.name and a.attnum > 0 and not a.attisdropped),
           (select a.attname from pg_attribute a
             where a.attrelid = relation and a.attnum = l.attnum and not a.attisdropped),
           l.name) order by l.position), '{}') end
    from unnest(names, attnums) with ordinality as l(name, attnum, position)
$$;

-- A table with its primary key as it is now.
create or replace function replication.with_current_key(t replication.replicated_tables)
returns replication.replicated_tables language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  t.key_columns := coalesce(
    (select array_agg(a.attname::text order by k.position)
       from pg_constraint c
      cross join unnest(c.conkey) with ordinality k(attnum, position)
       join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum
      where c.conrelid = t.relation and c.contype = 'p'),
    t.key_columns);
  return t;
end $$;

-- A table as it is registered, but with its key and the columns of its lists as they are called now.
create or replace function replication.current_table(of_table integer)
returns replication.replicated_tables language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  t replication.replicated_tables;
begin
  select * into t from replication.replicated_tables r where r.table_id = of_table;
  t.include := replication.current_names(t.relation, t.include, t.listed_attnums);
  t.exclude := replication.current_names(t.relation, t.exclude, t.listed_attnums);
  return replication.with_current_key(t);
end $$;

-- The settings that decide about the text of the table's values: pinned while capture runs. Each costs
-- microseconds a statement, so only those that matter are.
create or replace function replication.text_settings(t replication.replicated_tables)
returns table (setting text, value text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with kinds as (
    select case when y.typtype = 'e' or y.oid in
                     ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'text'::regtype,
                      'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype, 'numeric'::regtype,
                      'json'::regtype, 'jsonb'::regtype, 'bytea'::regtype, 'inet'::regtype,
                      'cidr'::regtype) then 'plain'
                when y.oid in ('float4'::regtype, 'float8'::regtype) then 'float'
                when y.oid in ('date'::regtype, 'timestamp'::regtype) then 'date'
                when y.oid = 'timestamptz'::regtype then 'zoned'
                else 'other' end as kind
      from replication.data_columns(t) c
      join pg_type y on y.oid = replication.base_type(c.type_id)
  )
  select s.setting, s.value
    from (values ('DateStyle', 'ISO, YMD', '{date,zoned,other}'::text[]),
                 ('TimeZone', 'UTC', '{zoned,other}'),
                 ('extra_float_digits', '1', '{float,other}'),
                 ('IntervalStyle', 'postgres', '{other}'), ('bytea_output', 'hex', '{other}'),
                 ('lc_monetary', 'C', '{other}'), ('array_nulls', 'on', '{other}'),
                 ('quote_all_identifiers', 'off', '{other}'))
           as s(setting, value, matters)
   where exists (select from kinds where kind = any(s.matters))
$$;

-- The same, for the rest of the transaction; restore_settings() undoes it with what this returns.
create or replace function replication.pin_text_settings(t replication.replicated_tables)
returns text[] language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  former text[];
  pinned record;
begin
  for pinned in select * from replication.text_settings(t) loop
    former := former || array[array[pinned.setting, current_setting(pinned.setting)]];
    perform set_config(pinned.setting, pinned.value, true);
  end loop;
  return former;
end $$;

create or replace function replication.restore_settings(former text[])
returns void language sql set search_path = pg_catalog, pg_temp as $$
  select set_config(former[i][1], former[i][2], true) from generate_subscripts(former, 1) i
$$;

-- Compiles the capture function of one table.
create or replace function replication.refresh_capture(of_table integer)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $refresh$
declare
  function_name constant text := format('replication.%I', 'capture_' || of_table);
  t replication.replicated_tables;
  c constant replication.contour := (select c from replication.contour c);
begin
  -- Two sessions that replace a function at once fail; the second one must see what the first has done.
  perform pg_advisory_xact_lock(hashtext('replication.capture'), of_table);
  t := replication.current_table(of_table);
  if replication.key_expression(t, 'n') is null
     or cardinality(t.key_columns) > (select count(*) from replication.data_columns(t) d
                                       where d.attname = any(t.key_columns)) then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('table %s is replicated, and needs its primary key', t.relation),
      hint = 'Give it another primary key in the same statement, or remove_table_from_replication() first.';
  end if;
  -- The table is named by its OID, so that a rename between two statements can't break the function.
  execute format($sql$
create or replace function %1$s() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp %2$s
as %3$L $sql$,
    function_name,
    (select string_agg(format('set %I = %L', setting, value), ' ') from replication.text_settings(t)),
    format($sql$
#variable_conflict use_variable
declare
  clock constant bigint := replication.clock();
  -- Event ids are UUIDs of version 8: time in 16 µs, contour, incarnation, queue id. After a restore the
  -- ids come again, the time does not.
  seed constant text := to_hex(clock >> 4) || %3$L;
  txid constant bigint := pg_current_xact_id()::text::bigint;
  -- Versions of this statement are not lower; a second is for a clock that is set back.
  earliest constant bigint := (clock - 1000000
    - (date_part('epoch', clock_timestamp() - statement_timestamp()) * 1000000)::bigint) << 10;
  salt bigint;
  shape text;
  compiled boolean;   -- whether the statements below know the table as it is
  -- A snapshot taken at the transaction's beginning may not show the newest tombstone of a key. Such
  -- writers lock the tombstones of new keys, and fail with a serialization error if one is newer.
  careful boolean;
  replication_role text;
  queued bigint;
  large boolean := false;
  largest bigint;
  registered replication.replicated_tables;
  former text[];
begin
  if tg_relid <> %1$s and pg_partition_root(tg_relid) is distinct from %1$s::regclass then
    if not exists (select from replication.replicated_tables r where r.table_id = %5$s
                      and r.relation in (tg_relid, pg_partition_root(tg_relid))) then
      return null;  -- a partition that has been detached
    end if;
    -- Restored from a dump: the table has another OID than this function was made for.
  end if;
  if pg_trigger_depth() > 1 then
    perform set_config('replication.nested_%5$s', 'yes', true);
  end if;
  if tg_op = 'DELETE' then
    select replication.table_fingerprint(%1$s::regclass) into shape from old_rows limit 1;
  else
    select replication.table_fingerprint(%1$s::regclass) into shape from new_rows limit 1;
  end if;
  if not found then
    return null;
  end if;
  compiled := coalesce(shape = %2$L, false);
  if compiled then  -- the common way: one statement, which queues nothing if it will not do
    if tg_op = 'INSERT' then
%6$s;
    elsif tg_op = 'UPDATE' then
      salt := hashtextextended(seed, %4$s);
%7$s;
    else
%8$s;
      get diagnostics queued = row_count;
%15$s
      if queued = (select count(*) from old_rows) then
        return null;
      end if;
    end if;
    if found and tg_op <> 'DELETE' then
      return null;
    end if;
  end if;

  careful := current_setting('transaction_isolation') <> 'read committed';
  replication_role := current_setting('session_replication_role');
  if careful and tg_op <> 'DELETE' then
    if not compiled then
      execute replication.lock_statement(replication.current_table(%5$s), tg_op);
    elsif tg_op = 'INSERT' then
%13$s;
    else
%14$s;
    end if;
  end if;
  perform set_config('session_replication_role', 'replica', true);
  if not compiled then
    null;
  elsif tg_op = 'INSERT' then
    large := not %9$s;
  elsif tg_op = 'UPDATE' then
    large := not (%9$s and %10$s);
  else
    large := not %10$s;
  end if;
  if not compiled or large then
    -- The columns have changed since, or a row is so large that its image may not fit into 1 GB. Those
    -- are tried whole first, then without the images of the largest.
    registered := replication.current_table(%5$s);
    former := replication.pin_text_settings(registered);
    foreach largest in array array[null, 16777216, 262144] loop
      begin
        execute replication.capture_statement(registered, tg_op, tg_op <> 'DELETE', largest)
          using seed, txid, earliest;
        exit;
      exception when program_limit_exceeded or internal_error or out_of_memory then
        if largest = 262144 then
          raise;
        end if;
      end;
    end loop;
    perform replication.restore_settings(former);
  elsif tg_op = 'INSERT' then
%11$s;
  elsif tg_op = 'UPDATE' then
%12$s;
  end if;
  if tg_op = 'DELETE' then
    execute replication.revive_statement(replication.current_table(%5$s)) using seed, txid;
    perform set_config('replication.nested_%5$s', 'yes', true);
  end if;
  perform set_config('session_replication_role', replication_role, true);
  return null;
end $sql$,
    t.relation::oid, replication.table_fingerprint(t.relation),
    '80' || lpad(to_hex(c.id & 255), 2, '0') || to_hex(8 + (c.id >> 8)) || left(c.incarnation::text, 3),
    hashtextextended(c.incarnation::text, 0), t.table_id,
    replication.capture_statement(t, 'INSERT', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.capture_statement(t, 'UPDATE IN PLACE', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.capture_statement(t, 'DELETE', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.small_expression(t, 'n'), replication.small_expression(t, 'o'),
    replication.capture_statement(t, 'INSERT', true, null, 'old_rows', 'seed', 'txid', 'earliest', false),
    replication.capture_statement(t, 'UPDATE', true, null, 'old_rows', 'seed', 'txid', 'earliest', false),
    replication.lock_statement(t, 'INSERT'), replication.lock_statement(t, 'UPDATE'),
    -- A cascade from a table into itself may have changed rows that it deleted afterwards.
    case when exists (select from pg_constraint k where k.contype = 'f' and k.conrelid = t.relation
                         and k.confrelid = t.relation)
         then format('      perform set_config(''replication.nested_%s'', ''yes'', true);', t.table_id) end));
  execute format('alter function %s() owner to replication_owner', function_name);
  execute format('revoke all on function %s() from public', function_name);
  execute format('comment on function %s() is %L', function_name,
                 'Capture trigger of ' || t.table_name || '; generated by replication.refresh_capture.');
  update replication.replicated_tables r
     set fingerprint = replication.table_fingerprint(t.relation),
         compiled_slot = (select active_slot from replication.queue_ring),
         key_columns = t.key_columns, include = t.include, exclude = t.exclude,
         listed_attnums = (select array_agg(a.attnum order by l.position)
                             from unnest(coalesce(t.include, t.exclude)) with ordinality as l(name, position)
                             left join pg_attribute a on a.attrelid = t.relation and a.attname = l.name)
   where r.table_id = t.table_id;
end $refresh$;

-- schema/45_queue_ring.sql
-- The ring of the queue's partitions: retention without deleting rows one by one.
--
-- Capture writes into one partition for half the retention time, then into the next. A partition whose
-- rows are all published and older than the retention time is emptied by TRUNCATE: no dead rows, no
-- vacuum, and nothing to make or drop. When nobody turns the ring, the queue goes on in the partition
-- it has. Never emptied: a partition with a row that waits or is parked. From such a partition, and
-- from one that stays active for too long, old rows are deleted in batches.
--
-- Locks: TRUNCATE takes ACCESS EXCLUSIVE on one partition that nobody writes to; it gives up after
-- 200 ms, so that publishers hardly notice, and comes again with the next cleanup.

-- Empties and turns. Returns the rows thrown away, by the statistics of the server.
create or replace function replication.rotate_queue(retention interval)
returns bigint language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
declare
  ring replication.queue_ring;
  slot smallint;
  leaf regclass;
  found_some boolean;
  removed bigint := 0;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception using errcode = 'feature_not_supported',
      message = 'rotate_queue() needs the isolation level read committed',
      hint = 'An older snapshot would not show rows that wait in the partition to be emptied.';
  end if;
  select * into ring from replication.queue_ring for update skip locked;
  if not found then
    return 0;  -- another cleanup is at it
  end if;
  foreach slot in array array[0, 1, 2, 3] loop
    continue when slot = ring.active_slot;
    leaf := format('replication.replication_queue_%s', slot);
    execute format('select exists (select from %s)', leaf) into found_some;
    continue when not found_some;
    execute format('select exists (select from %1$s where not published) '
                   'or exists (select from %1$s where published_at >= clock_timestamp() - $1)', leaf)
       into found_some using retention;
    continue when found_some;
    begin
      execute format('lock table %s in access exclusive mode', leaf);
      -- Rows may have come to wait again meanwhile.
      execute format('select exists (select from %s where not published)', leaf) into found_some;
      if not found_some then
        removed := removed + (select greatest(reltuples, 0) from pg_class where oid = leaf);
        execute format('truncate %s', leaf);
      end if;
    exception when lock_not_available then
      null;
    end;
  end loop;
  if ring.active_since < clock_timestamp() - retention / 2 then
    slot := (ring.active_slot + 1) % 4;
    execute format('select exists (select from replication.replication_queue_%s)', slot) into found_some;
    if not found_some then
      update replication.queue_ring set active_slot = slot, active_since = clock_timestamp();
      perform replication.follow_schema_changes();  -- a table in the middle of DDL follows later
    end if;
  end if;
  -- Placeholders of REPEATABLE READ writers, see lock_statement().
  delete from replication.replication_tombstones s
   where s.ctid = any(array(
     select p.ctid from replication.replication_tombstones p
      where p.table_name in (select table_name from replication.replicated_tables) and p.version = 1
        and p.deleted_at < clock_timestamp() - interval '1 hour' for update skip locked));
  return removed;
end $$;

-- Deletes up to `most` old published rows from partitions that can't be emptied whole before long.
create or replace function replication.remove_published(retention interval, most integer)
returns bigint language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  leaf regclass;
  stays boolean;
  removed bigint := 0;
  gone bigint;
begin
  for leaf in
    select inhrelid from pg_inherits where inhparent = 'replication.replication_queue'::regclass order by 1
  loop
    stays := leaf = (select format('replication.replication_queue_%s', active_slot)::regclass
                       from replication.queue_ring);
    if not stays then
      execute format('select exists (select from %s where not published)', leaf) into stays;
    end if;
    continue when not stays;
    execute format('delete from %1$s where ctid = any(array('
                   '  select ctid from %1$s where published and published_at < clock_timestamp() - $1 '
                   '   limit $2 for update skip locked))', leaf)
      using retention, most - removed;
    get diagnostics gone = row_count;
    removed := removed + gone;
    exit when removed >= most;
  end loop;
  return removed;
end $$;

-- schema/50_setup_table.sql
-- Setting a table up for replication, and taking it out again. Both are idempotent.

drop function if exists replication.setup_table_for_replication(regclass, boolean);

-- Captures every change of `relation` from now on, and lets the consumer role write it.
--   full_before       events of UPDATE and DELETE carry the whole old row, not only its key
--   include, exclude  the columns that travel, or those that don't; key columns always do. A change of
--                     other columns only is no event
--   capture_truncate  TRUNCATE becomes a DELETE of every row; otherwise it is refused
-- null: as it is, or for a new table false and all columns. Other options than a table has are refused.
create or replace function replication.setup_table_for_replication(
  relation regclass, full_before boolean default null, include text[] default null,
  exclude text[] default null, capture_truncate boolean default null)
returns void language plpgsql
set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
declare
  wanted replication.replicated_tables;
  registered replication.replicated_tables;
  part regclass;
begin
  perform replication.forget_dropped_tables();
  perform replication.refuse_unfit_table(relation);
  execute format('lock table %s in access exclusive mode', relation);  -- at once what it needs later
  select case when n.nspname = 'public' then c.relname else n.nspname || '.' || c.relname end
    into wanted.table_name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
  select table_id into registered.table_id from replication.replicated_tables r
   where r.relation = setup_table_for_replication.relation;
  if found then
    registered := replication.current_table(registered.table_id);
    wanted.table_name := registered.table_name;
  end if;
  wanted.relation := relation;
  wanted := replication.with_current_key(wanted);
  wanted.full_before := coalesce(full_before, registered.full_before, false);
  wanted.capture_truncate := coalesce(capture_truncate, registered.capture_truncate, false);
  wanted.include := coalesce(include, case when exclude is null then registered.include end);
  wanted.exclude := coalesce(exclude, case when include is null then registered.exclude end);
  perform replication.refuse_bad_options(registered, wanted);

  execute format('alter table %s add column if not exists replication_version bigint default 0', relation);
  execute format('comment on column %s.replication_version is %L', relation,
                 'Set by replication_pipeline: µs since 1970 << 10 | contour. Not for applications.');
  if registered.table_id is null then
    insert into replication.replicated_tables
           (table_name, relation, key_columns, full_before, include, exclude, capture_truncate, fingerprint)
    values (wanted.table_name, relation, wanted.key_columns, wanted.full_before, wanted.include,
            wanted.exclude, wanted.capture_truncate, '')
    returning * into registered;
  end if;
  perform replication.refresh_capture(registered.table_id);
  perform replication.put_stamps(relation);
  for part in select replication.parts_of(relation) loop
    perform replication.put_capture_triggers(registered, part);
  end loop;
  perform replication.grant_rights(registered.table_id);
end $$;

-- A table and, if it is partitioned, all its partitions.
create or replace function replication.parts_of(relation regclass)
returns setof regclass language sql stable set search_path = pg_catalog, pg_temp as $$
  select relation union select relid from pg_partition_tree(relation)
$$;

-- What the pipeline's roles need on a table and its schema. Only what is missing is granted, and
-- remembered for the day the table is removed.
create or replace function replication.grant_rights(of_table integer)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  t replication.replicated_tables;
  wanted record;
begin
  select * into t from replication.replicated_tables r where r.table_id = of_table;
  -- Who adds a partition needs the right to have its row trigger copied.
  if (select relkind from pg_class where oid = t.relation) = 'p' then
    execute format('grant execute on function replication.stamp_update(), '
                   'replication.stamp_update_of_captured() to %s',
                   (select relowner::regrole from pg_class where oid = t.relation));
  end if;
  for wanted in
    select w.role, w.privilege, c.relnamespace,
           case w.privilege when 'USAGE' then format('schema %s', c.relnamespace::regnamespace)
                else format('table %s', t.relation) end as object,
           case w.privilege when 'USAGE' then n.nspacl else c.relacl end as acl
      from (select 'replication_consumer', unnest('{USAGE,SELECT,INSERT,UPDATE,DELETE}'::text[])
            union all
            select 'replication_owner', unnest('{USAGE,SELECT,UPDATE}'::text[])) as w(role, privilege)
      join pg_class c on c.oid = t.relation
      join pg_namespace n on n.oid = c.relnamespace
  loop
    continue when exists (select from aclexplode(wanted.acl) a
                           where a.grantee = wanted.role::regrole and a.privilege_type = wanted.privilege);
    execute format('grant %s on %s to %I', wanted.privilege, wanted.object, wanted.role);
    update replication.replicated_tables r
       set granted = array_append(array_remove(r.granted, wanted.privilege || ' ' || wanted.role),
                                  wanted.privilege || ' ' || wanted.role)
     where r.table_id = of_table;
    if not (case wanted.privilege
              when 'USAGE' then has_schema_privilege(wanted.role, wanted.relnamespace, 'usage')
              else has_table_privilege(wanted.role, t.relation, wanted.privilege) end) then
      raise exception using errcode = 'insufficient_privilege',
        message = format('%s on %s can''t be granted to %s', wanted.privilege, wanted.object, wanted.role),
        hint = 'Run this as the owner of both, or let the owner grant it first.';
    end if;
  end loop;
end $$;

create or replace function replication.revoke_rights(t replication.replicated_tables)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  given text;
  heir integer;
begin
  foreach given in array t.granted loop
    continue when given !~ '^(USAGE|SELECT|INSERT|UPDATE|DELETE) replication_(owner|consumer)$';
    if given not like 'USAGE %' then
      execute format('revoke %s on %s from %I', split_part(given, ' ', 1), t.relation, split_part(given, ' ', 2));
      continue;
    end if;
    -- The last replicated table of a schema takes the right on it along.
    select r.table_id into heir
      from replication.replicated_tables r join pg_class c on c.oid = r.relation
     where c.relnamespace = (select relnamespace from pg_class where oid = t.relation) limit 1;
    if found then
      update replication.replicated_tables r
         set granted = array_append(array_remove(r.granted, given), given) where r.table_id = heir;
    else
      execute format('revoke usage on schema %s from %I',
                     (select relnamespace::regnamespace from pg_class where oid = t.relation),
                     split_part(given, ' ', 2));
    end if;
  end loop;
end $$;

-- Registrations of tables that have been dropped.
create or replace function replication.forget_dropped_tables()
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  dropped integer;
begin
  for dropped in
    delete from replication.replicated_tables r
     where not exists (select from pg_class c where c.oid = r.relation) returning table_id
  loop
    execute format('drop function if exists replication.%I()', 'capture_' || dropped);
  end loop;
end $$;

-- The statement triggers of a table, or of one partition. They fire for the table that a statement
-- names, so each partition has its own, and no row is captured twice.
create or replace function replication.put_capture_triggers(t replication.replicated_tables, part regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  function_name constant text := format('replication.%I', 'capture_' || t.table_id);
begin
  execute format('create or replace trigger replication_capture_insert after insert on %s '
                 'referencing new table as new_rows for each statement execute function %s()',
                 part, function_name);
  execute format('create or replace trigger replication_capture_update after update on %s '
                 'referencing old table as old_rows new table as new_rows '
                 'for each statement execute function %s()', part, function_name);
  execute format('create or replace trigger replication_capture_delete after delete on %s '
                 'referencing old table as old_rows for each statement execute function %s()',
                 part, function_name);
  -- TRUNCATE fires for every table it empties, partitions included.
  if (select relkind from pg_class where oid = part) <> 'p' then
    execute format('create or replace trigger replication_capture_truncate before truncate on %s '
                   'for each statement execute function replication.capture_truncate(%L)', part, t.table_id);
    if part <> t.relation then
      execute format('grant select on %s to replication_owner', part);
    end if;
  end if;
end $$;

-- Brings capture up to date with changes of tables: compiled functions, the columns that don't count,
-- and triggers on new partitions. An event trigger calls it within the transaction of the change where
-- the installing role may make one, else publishers call it every few seconds.
--   may_alter: also what only the tables' owner or a superuser may do. Without it, a table that someone
--   is altering right now is left for the next time
create or replace function replication.follow_schema_changes(
  may_alter boolean default false, only_tables integer[] default null)
returns integer language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  t replication.replicated_tables;
  part regclass;
  followed integer := 0;
begin
  perform replication.forget_dropped_tables();
  for t in
    select * from replication.replicated_tables r where only_tables is null or r.table_id = any(only_tables)
  loop
    if t.fingerprint is distinct from replication.table_fingerprint(t.relation)
       or t.compiled_slot is distinct from (select active_slot from replication.queue_ring) then
      continue when not may_alter
        and (not pg_try_advisory_xact_lock(hashtext('replication.capture'), t.table_id)
             or not exists (select from pg_constraint k where k.conrelid = t.relation and k.contype = 'p'));
      perform replication.refresh_capture(t.table_id);
      if may_alter then
        perform replication.put_stamps(t.relation);
        perform replication.grant_rights(t.table_id);
      end if;
      followed := followed + 1;
    end if;
    continue when not may_alter;
    if exists (select from pg_class l
                where l.relrowsecurity and l.oid in (select replication.parts_of(t.relation))) then
      raise exception using errcode = 'object_not_in_prerequisite_state',
        message = format('table %s is replicated, and can''t have row level security', t.relation),
        hint = 'Policies would hide rows from capture and from the applier. '
               'remove_table_from_replication() first.';
    end if;
    if exists (select from pg_class c where c.oid = t.relation and c.relkind = 'p'
                  and not has_function_privilege(c.relowner, 'replication.stamp_update()', 'execute')) then
      perform replication.grant_rights(t.table_id);
    end if;
    for part in
      select p.relid from pg_partition_tree(t.relation) p
       where not exists (select from pg_trigger g where g.tgrelid = p.relid
                            and g.tgfoid = (select f.tgfoid from pg_trigger f where f.tgrelid = t.relation
                                               and f.tgname = 'replication_capture_insert'))
    loop
      perform replication.put_capture_triggers(t, part);
      followed := followed + 1;
    end loop;
  end loop;
  if may_alter then
    for part in  -- partitions that were detached
      select g.tgrelid
        from pg_trigger g join pg_class c on c.oid = g.tgrelid join pg_proc p on p.oid = g.tgfoid
       where g.tgname = 'replication_capture_insert' and p.pronamespace = 'replication'::regnamespace
         and not exists (select from replication.replicated_tables r
                          where r.relation in (g.tgrelid, pg_partition_root(g.tgrelid)))
    loop
      perform replication.drop_triggers(part);
      followed := followed + 1;
    end loop;
  end if;
  return followed;
end $$;

-- For publishers, who own nothing.
create or replace function replication.refresh_captures()
returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  return replication.follow_schema_changes();
end $$;

create or replace function replication.follow_ddl()
returns event_trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  concerned constant integer[] := case when tg_tag not like 'DROP %' then array(
    select distinct r.table_id
      from pg_event_trigger_ddl_commands() d
      join replication.replicated_tables r
        on d.classid = 'pg_class'::regclass and r.relation in (d.objid, pg_partition_root(d.objid))
           or d.classid = 'pg_namespace'::regclass
              and d.objid = (select c.relnamespace from pg_class c where c.oid = r.relation)) end;
begin
  if concerned is null then
    perform replication.forget_dropped_tables();
  elsif cardinality(concerned) > 0 then
    perform replication.follow_schema_changes(may_alter => true, only_tables => concerned);
  end if;
end $$;

-- Says why a table can't be replicated, and what to do about it.
create or replace function replication.refuse_unfit_table(relation regclass)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c pg_class;
  key pg_constraint;
  bad_key name;
  generated_key name;
  bad_part regclass;
  problem text;
  remedy text;
begin
  select * into c from pg_class where oid = relation;
  select * into key from pg_constraint where conrelid = relation and contype = 'p';
  -- Keys are compared as text between contours: 1.0 and 1.00, or -0 and 0, must not be two keys.
  select a.attname into bad_key from pg_attribute a
   where a.attrelid = relation and a.attnum = any(key.conkey)
     and not coalesce((
       select case
         when b.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype,
                        'uuid'::regtype, 'date'::regtype, 'time'::regtype, 'timestamp'::regtype,
                        'timestamptz'::regtype, 'oid'::regtype, 'inet'::regtype, 'cidr'::regtype,
                        'macaddr'::regtype, 'macaddr8'::regtype, 'pg_lsn'::regtype) then true
         when b.oid in ('numeric'::regtype, 'bpchar'::regtype)
              then coalesce(nullif(a.atttypmod, -1), (select typtypmod from pg_type where oid = a.atttypid)) <> -1
         when b.oid in ('text'::regtype, 'varchar'::regtype)
              then (select collisdeterministic from pg_collation where oid = a.attcollation)
         else b.typtype = 'e' and b.oid = a.atttypid end  -- domains over enums have no =
         from pg_type b where b.oid = replication.base_type(a.atttypid)), false)
   limit 1;
  select a.attname into generated_key from pg_attribute a
   where a.attrelid = relation and a.attnum = any(key.conkey) and a.attgenerated <> '' limit 1;
  select p.relid into bad_part from pg_partition_tree(relation) p join pg_class l on l.oid = p.relid
   where l.relkind not in ('r', 'p') or l.relpersistence <> 'p' limit 1;
  if c.oid is null then
    problem := 'it does not exist';
    remedy := 'Give the name of an existing table.';
  elsif c.relispartition then
    problem := format('it is a partition of %s', pg_partition_root(relation));
    remedy := format('Set up the whole table: setup_table_for_replication(%L).', pg_partition_root(relation));
  elsif c.relkind not in ('r', 'p') then
    problem := 'it is not an ordinary table';
    remedy := 'Only tables are replicated, no views, foreign tables or sequences.';
  elsif c.relpersistence = 't' then
    problem := 'it is temporary';
    remedy := 'Replicate a table that other sessions can see.';
  elsif c.relpersistence <> 'p' then
    problem := 'it is unlogged';
    remedy := 'Rows that a crash may empty can''t be kept equal: ALTER TABLE … SET LOGGED.';
  elsif bad_part is not null then
    problem := format('its partition %s is a foreign table, or unlogged', bad_part);
    remedy := 'Detach that partition, or make it an ordinary logged table.';
  elsif c.relkind = 'r' and exists (select from pg_inherits where inhrelid = relation or inhparent = relation) then
    problem := 'it takes part in inheritance';
    remedy := 'Use separate tables, or declarative partitioning.';
  elsif c.relnamespace = 'replication'::regnamespace
        or c.relnamespace in (select oid from pg_namespace where nspname in ('pg_catalog', 'information_schema')) then
    problem := 'it belongs to the system';
    remedy := 'Replicate tables of your own schemas.';
  elsif key.oid is null then
    problem := 'it has no primary key';
    remedy := format('ALTER TABLE %s ADD PRIMARY KEY (…).', relation);
  elsif exists (select from pg_attribute a where a.attrelid = relation and a.attnum = any(key.conkey)
                   and a.attname = 'replication_version') then
    problem := 'its primary key has the column replication_version';
    remedy := 'Rename that column; the name is needed for the version.';
  elsif generated_key is not null then
    problem := format('its key column %s is generated', generated_key);
    remedy := 'Use a key of columns that applications write.';
  elsif key.condeferrable then
    problem := 'its primary key is deferrable';
    remedy := 'Make the key NOT DEFERRABLE: upserts can''t use a deferrable one.';
  elsif bad_key is not null then
    problem := format('its key column %s has a type whose equal values may have different texts', bad_key);
    remedy := 'Use a key of integers, text, uuid, dates, enums or numerics of fixed scale.';
  elsif exists (select from pg_constraint where conrelid = relation and contype in ('u', 'x') and condeferrable) then
    problem := 'it has a deferrable unique or exclusion constraint';
    remedy := 'Make it NOT DEFERRABLE: deferrable ones are not checked while remote changes are applied.';
  elsif exists (select from pg_class l
                 where l.relrowsecurity and l.oid in (select replication.parts_of(relation))) then
    problem := 'it has row level security';
    remedy := 'ALTER TABLE … DISABLE ROW LEVEL SECURITY: policies would hide rows from the applier.';
  elsif exists (select from pg_attribute where attrelid = relation and attname = 'replication_version'
                   and not attisdropped and atttypid <> 'bigint'::regtype) then
    problem := 'it has a column replication_version of its own';
    remedy := 'Rename that column; the name is needed for a bigint.';
  else
    return;
  end if;
  raise exception using errcode = 'wrong_object_type',
    table = coalesce(c.relname, relation::text),
    message = format('table %s can''t be replicated: %s', relation, problem), hint = remedy;
end $$;

create or replace function replication.same_names(one text[], other text[])
returns boolean language sql immutable set search_path = pg_catalog, pg_temp as $$
  select (one is null) = (other is null) and coalesce(one <@ other and other <@ one, true)
$$;

-- Says which option is wrong, or other than the table's own.
create or replace function replication.refuse_bad_options(
  registered replication.replicated_tables, wanted replication.replicated_tables)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  relation constant regclass := wanted.relation;
  stray text;
begin
  if exists (select from replication.replicated_tables r
              where r.table_name = wanted.table_name and r.relation <> wanted.relation) then
    raise exception using errcode = 'duplicate_object',
      message = format('table %s can''t be replicated: the events of %s are called %s already', relation,
                       (select r.relation from replication.replicated_tables r
                         where r.table_name = wanted.table_name), wanted.table_name),
      hint = 'Topics and events are named after the table. Rename one of the two, or remove the other '
             'from replication.';
  end if;
  if wanted.include is not null and wanted.exclude is not null then
    raise exception using errcode = 'invalid_parameter_value',
      message = format('table %s: include and exclude can''t both be given', relation),
      hint = 'Name the columns that travel, or those that don''t.';
  end if;
  if array_position(coalesce(wanted.include, wanted.exclude), null) is not null
     or array_ndims(coalesce(wanted.include, wanted.exclude)) > 1 then
    raise exception using errcode = 'null_value_not_allowed',
      message = format('table %s: a list of columns holds names, and no null', relation),
      hint = 'Write include => array[''a'', ''b''].';
  end if;
  select name into stray from unnest(coalesce(wanted.include, wanted.exclude)) as u(name)
   where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = u.name
                        and a.attnum > 0 and not a.attisdropped and a.attname <> 'replication_version')
   limit 1;
  if stray is not null and registered.table_id is null then
    raise exception using errcode = 'undefined_column',
      message = format('table %s has no column %I to list', relation, stray),
      hint = 'Names are written as in the catalog, without quotes: ''Mixed Case'', not ''"Mixed Case"''.';
  end if;
  select name into stray from unnest(wanted.exclude) as u(name) where name = any(wanted.key_columns) limit 1;
  if stray is not null then
    raise exception using errcode = 'invalid_parameter_value',
      message = format('table %s: the key column %I can''t be excluded', relation, stray),
      hint = 'The key tells which row a change belongs to.';
  end if;
  if registered.table_id is null then
    return;
  end if;
  stray := case when registered.full_before <> wanted.full_before then 'full_before'
                when registered.capture_truncate <> wanted.capture_truncate then 'capture_truncate'
                when not replication.same_names(registered.include, wanted.include) then 'include'
                when not replication.same_names(registered.exclude, wanted.exclude) then 'exclude' end;
  if stray is not null then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('table %s is replicated already, with another %s', relation, stray),
      hint = format('In one transaction, so that no change is missed: '
                    'select remove_table_from_replication(%1$L); select setup_table_for_replication(%1$L, …);',
                    relation);
  end if;
end $$;

-- BEFORE TRUNCATE of a table or partition. The table is locked by now, so nobody else writes to it.
create or replace function replication.capture_truncate()
returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  t replication.replicated_tables;
  largest bigint;
  former text[];
begin
  t := replication.current_table(tg_argv[0]::integer);
  if t.table_id is null or tg_relid <> t.relation and pg_partition_root(tg_relid) is distinct from t.relation then
    return null;  -- a partition that has been detached
  end if;
  if not t.capture_truncate then
    raise exception using errcode = 'feature_not_supported', table = tg_table_name,
      message = format('table %I.%I is replicated, and its TRUNCATE is not captured',
                       tg_table_schema, tg_table_name),
      hint = 'DELETE FROM the table, or set it up with capture_truncate => true.';
  end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception using errcode = 'feature_not_supported', table = tg_table_name,
      message = format('TRUNCATE of the replicated table %I.%I needs the isolation level read committed',
                       tg_table_schema, tg_table_name),
      hint = 'Begin it with READ COMMITTED: rows that a snapshot does not show would vanish here and stay '
             'elsewhere.';
  end if;
  former := replication.pin_text_settings(t);
  foreach largest in array array[null, 262144] loop
    begin
      execute replication.capture_statement(t, 'TRUNCATE', false, largest,
                                            source => format('only %s', tg_relid::regclass))
        using overlay(left(gen_random_uuid()::text, 24) placing '8' from 15), pg_current_xact_id()::text::bigint;
      exit;
    exception when program_limit_exceeded or internal_error or out_of_memory then
      if largest is not null then
        raise;
      end if;
    end;
  end loop;
  perform replication.restore_settings(former);
  return null;
end $$;

-- Stops capturing. Queued events stay and are published. The version column stays unless asked for:
-- dropping it forgets which write was the last one.
create or replace function replication.remove_table_from_replication(
  relation regclass, drop_version_column boolean default false)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  registered replication.replicated_tables;
  part regclass;
  ours boolean;
begin
  delete from replication.replicated_tables r
   where r.relation = remove_table_from_replication.relation returning * into registered;
  ours := registered.table_id is not null
          or coalesce((select col_description(attrelid, attnum) like 'Set by replication_pipeline%'
                         from pg_attribute where attrelid = relation and attname = 'replication_version'
                          and not attisdropped), false);
  for part in select replication.parts_of(relation) loop
    perform replication.drop_triggers(part);
  end loop;
  if registered.table_id is not null then
    execute format('drop function if exists replication.%I()', 'capture_' || registered.table_id);
    perform replication.revoke_rights(registered);
  end if;
  if drop_version_column and ours then
    execute format('alter table %s drop column if exists replication_version', relation);
  elsif registered.table_id is not null then
    execute format('alter table %s alter column replication_version set default 0', relation);
  end if;
end $$;

-- All triggers of ours on one table or partition, but those that PostgreSQL copied from its root.
create or replace function replication.drop_triggers(part regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  trigger_name text;
begin
  for trigger_name in
    select g.tgname from pg_trigger g join pg_proc p on p.oid = g.tgfoid
     where g.tgrelid = part and not g.tgisinternal and g.tgparentid = 0
       and p.pronamespace = 'replication'::regnamespace
  loop
    execute format('drop trigger %I on %s', trigger_name, part);
  end loop;
  if (select relispartition from pg_class where oid = part) then
    execute format('revoke select on %s from replication_owner', part);
  end if;
end $$;

-- Only a superuser may make an event trigger; elsewhere publishers follow changes of columns, and a
-- new partition that is written to by its own name needs another setup_table_for_replication().
do $$ begin
  create event trigger replication_follow_ddl on ddl_command_end
    when tag in ('CREATE TABLE', 'ALTER TABLE', 'ALTER SCHEMA', 'DROP TABLE', 'DROP SCHEMA',
                 'DROP OWNED')
    execute function replication.follow_ddl();
exception
  when duplicate_object then null;
  when insufficient_privilege then
    raise warning 'no event trigger could be made: this role is no superuser'
      using hint = 'After adding a partition, run setup_table_for_replication() of its table again.';
end $$;

-- After an upgrade of these files everything is made again.
do $$
declare
  t replication.replicated_tables;
  part regclass;
begin
  perform replication.forget_dropped_tables();
  perform replication.install_clock();
  for t in select * from replication.replicated_tables loop
    if not pg_has_role(current_user, (select relowner from pg_class where oid = t.relation), 'usage') then
      raise warning 'table % belongs to another role; its triggers stay as they are', t.relation
        using hint = 'Let its owner run setup_table_for_replication() again.';
      continue;
    end if;
    perform replication.refresh_capture(t.table_id);
    for part in select replication.parts_of(t.relation) loop
      execute format('drop trigger if exists replication_refuse_truncate on %s', part);
      execute format('drop trigger if exists zz_replication_stamp_insert on %s', part);
      perform replication.put_capture_triggers(t, part);
    end loop;
  end loop;
end $$;
drop function if exists replication.refuse_truncate(), replication.stamp_insert();
drop function if exists replication.with_variables(text), replication.queue_insert(text, boolean),
  replication.refresh_capture(replication.replicated_tables),
  replication.capture_statement(replication.replicated_tables, text, boolean),
  replication.data_columns(regclass), replication.projection(regclass, text),
  replication.key_expression(regclass, text[], text);

-- schema/60_monitoring.sql
-- One row that answers "how is this contour?", for the command line, Dagster and any SQL client.
-- The waiting rows are counted through the partial index replication_queue_waiting.

drop view if exists replication.status;
create view replication.status as
select c.name as contour,
       q.unpublished,
       q.oldest_unpublished_seconds,
       q.parked_publish,
       (select count(*) from replication.parked_events) as parked_apply,
       w.publishers, w.appliers,
       (select coalesce(sum(greatest(o.high_watermark - o.next_offset, 0)), 0)::bigint
          from replication.consumer_offsets o) as apply_lag_events,
       w.processed_total, w.failed_total, w.applied_total, w.skipped_total, w.conflicts_total
  from replication.contour c
 cross join lateral (
   select count(*) as unpublished,
          coalesce(extract(epoch from clock_timestamp() - min(created_at))::float8, 0)
            as oldest_unpublished_seconds,
          count(*) filter (where parked_at is not null) as parked_publish
     from replication.replication_queue where not published) q
 cross join lateral (
   -- A worker is alive while its heartbeat is fresh; idle ones renew it every 5 s.
   select count(*) filter (where role = 'publisher' and alive) as publishers,
          count(*) filter (where role = 'applier' and alive) as appliers,
          coalesce(sum(processed) filter (where role = 'publisher'), 0)::bigint as processed_total,
          coalesce(sum(failed), 0)::bigint as failed_total,
          coalesce(sum(applied), 0)::bigint as applied_total,
          coalesce(sum(skipped), 0)::bigint as skipped_total,
          coalesce(sum(conflicts), 0)::bigint as conflicts_total
     from (select *, stopped_at is null
                     and heartbeat_at > clock_timestamp() - interval '15 seconds' as alive
             from replication.workers) w) w;

comment on view replication.status is
  'One row: backlog, lag in seconds, parked events, live workers and counters of this contour.';

-- schema/90_grants.sql
-- Ownership and rights. Nothing is granted to PUBLIC: who writes a replicated table needs no right
-- here, because the capture functions run as replication_owner.

do $$
declare
  object record;
begin
  for object in
    select case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind, c.oid::regclass as name
      from pg_class c where c.relnamespace = 'replication'::regnamespace and c.relkind in ('r', 'p', 'v')
        or c.oid = 'replication.replication_queue_id_seq'::regclass
  loop
    execute format('alter %s %s owner to replication_owner', object.kind, object.name);
  end loop;
  -- Functions stay with the role that installs: an event trigger calls some of them as a superuser, so
  -- replication_owner, as which code of table owners may come to run, must not be able to change them.
  for object in
    select p.oid::regprocedure as name, p.prosecdef and p.prorettype <> 'event_trigger'::regtype as runs_as_owner
      from pg_proc p where p.pronamespace = 'replication'::regnamespace
  loop
    execute format('alter function %s owner to %s', object.name,
                   case when object.runs_as_owner then 'replication_owner' else 'current_user' end);
    execute format('revoke all on function %s from public', object.name);
    execute format('grant execute on function %s to replication_owner', object.name);
  end loop;
end $$;

revoke all on schema replication from public;
alter schema replication owner to current_user;
grant usage, create on schema replication to replication_owner;  -- create: its own capture functions
grant usage on schema replication
  to replication_publisher, replication_consumer, replication_monitor;

grant select on all tables in schema replication
  to replication_publisher, replication_consumer, replication_monitor;
-- Publishing: rows are marked, never made; cleanup removes published ones.
grant update, delete on replication.replication_queue to replication_publisher;
grant update on replication.publish_shards to replication_publisher;
grant select on sequence replication.replication_queue_id_seq to replication_publisher;
grant insert, update, delete on replication.workers
  to replication_publisher, replication_consumer;
grant delete on replication.processed_events, replication.replication_conflicts
  to replication_publisher;
grant execute on function replication.rotate_queue(interval), replication.refresh_captures(),
  replication.remove_published(interval, integer) to replication_publisher;
-- Applying.
grant insert, update, delete on replication.processed_events, replication.consumer_offsets,
  replication.parked_events, replication.replication_tombstones, replication.replication_conflicts
  to replication_consumer;
-- Its reading of the catalog (sql/queries/catalog.sql).
grant execute on function replication.table_fingerprint(regclass), replication.base_type(oid),
  replication.tombstone_key(text) to replication_consumer;

-- `replication_queue` and the functions are found without their schema in every new session.
do $$
declare
  present text := (
    select split_part(setting, '=', 2)
      from pg_db_role_setting s, unnest(s.setconfig) setting
     where s.setdatabase = (select oid from pg_database where datname = current_database())
       and s.setrole = 0 and setting like 'search_path=%');
begin
  if present is null then
    execute format('alter database %I set search_path = "$user", public, replication',
                   current_database());
  elsif present !~ '(^|[ ,"])replication($|[ ,"])' then
    execute format('alter database %I set search_path = %s, replication', current_database(), present);
  end if;
end $$;
