-- Tables. State invariants are CHECK constraints: a row that can't be explained can't be stored.

create schema if not exists replication;

-- Who this database is. One row. `incarnation` is random; event ids hold some of it. After a restore from
-- a backup it may stay, as they hold the time as well.
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
  files_version constant integer := 3;
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
  displace    boolean not null default false,
  fingerprint text not null,
  set_up_at   timestamptz not null default clock_timestamp()
);

-- The queue. Written by capture triggers in the user's transaction; claimed by publishers.
-- States:  waiting    neither published nor held
--          held       refused by Kafka, tried again at retry_at; or (retry_at null) behind such a row of
--                     its key
--          parked     held, with parked_at set; only an operator brings it back
--          published  published, published_at set
-- Whoever changes a row's state holds the row of its shard in publish_shards.
-- `operation` is INSERT, UPDATE, DELETE or SNAPSHOT. `payload` is null for a DELETE, and for a row too
-- large to be written as an event, which is parked from the beginning. `shape` is the fingerprint of the
-- table's columns then (shape_of); it lies where alignment left a gap. Unlike elsewhere no CHECK says
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
  shape        integer,
  txid         bigint not null,
  created_at   timestamptz not null default clock_timestamp(),
  published    boolean not null default false,
  held         boolean not null default false,
  published_at timestamptz,
  attempts     integer not null default 0,
  last_error   text,
  retry_at     timestamptz,
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

do $$ begin
  -- Before version 3 parked rows stood among the waiting ones in the index.
  if not exists (select from pg_attribute
                  where attrelid = 'replication.replication_queue'::regclass and attname = 'held') then
    alter table replication.replication_queue
      add column held boolean not null default false, add column retry_at timestamptz;
    drop index if exists replication.replication_queue_waiting, replication.replication_queue_parked;
    update replication.replication_queue set held = true where parked_at is not null;
  end if;
end $$;

-- `snapshot_to`: of what a snapshot sends, the contour that is to apply it, or * for all others; of a change, null.
alter table replication.replication_queue
  add column if not exists shape integer, add column if not exists snapshot_to text;

-- Claims read one shard in id order, and held rows are out of their way; the two monitoring statements
-- use it as well.
create index if not exists replication_queue_waiting
  on replication.replication_queue (shard, held, id) where not published;
-- Fences: an event waits while an earlier one of its key is held. A hash, as keys may be long.
create index if not exists replication_queue_held
  on replication.replication_queue (hashtext(record_key)) where held;
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
       txid, created_at, published, held, published_at, attempts, last_error, parked_at)
    select id, event_id, table_name, operation, record_key, payload, before, version, base_version,
           shard, txid, created_at, published, parked_at is not null, published_at, attempts,
           last_error, parked_at
      from replication.replication_queue_of_version_1;
    drop table replication.replication_queue_of_version_1;
  end if;
  alter table replication.replicated_tables
    add column if not exists include text[], add column if not exists exclude text[],
    add column if not exists listed_attnums smallint[],
    add column if not exists compiled_slot smallint,
    add column if not exists granted text[] not null default '{}',
    add column if not exists capture_truncate boolean not null default false,
    add column if not exists displace boolean not null default false;
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

-- Where a table has `displace`: keys whose row gave way to another one, or to a newer image of its own that waits,
-- with the newest version that this contour knew of them then. Nobody deleted them, so it buries nothing and no event
-- is judged by it; but a row that is inserted here under such a key must be newer, whenever it took its version.
-- Version 1: a placeholder, as of the tombstones.
create table if not exists replication.displaced_keys (
  table_name   text not null,
  record_key   text not null,  -- tombstone_key() of it
  version      bigint not null check (version > 0),
  displaced_at timestamptz not null default clock_timestamp(),
  primary key (table_name, record_key)
);
create index if not exists displaced_keys_version on replication.displaced_keys (table_name, version);

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

-- Kafka's id of each topic that is read here. A topic that was deleted and made anew has another one, and
-- offsets of the former one mean nothing in it.
create table if not exists replication.consumer_topics (
  topic      text primary key,
  topic_id   text not null,
  learned_at timestamptz not null default clock_timestamp()
);

-- Remote events that can't be applied yet, or at all, with the reason. Tried again by themselves
-- when the reason may have gone; never dropped. A negative offset is none: the event came by a topic that
-- has been made anew since, where its offset is another event's. `blocked_by` is the table and the key of the
-- row that has the values of a unique index; `displaced` are rows of this database that gave way to such an
-- event, in the form of events, with partition -1. `message_key` and `signature` are kept where `bad_signature` says
-- that they did not fit, to be verified again when keys have changed.
create table if not exists replication.parked_events (
  id           bigint generated always as identity primary key,
  topic        text not null,
  partition    integer not null,
  kafka_offset bigint not null,
  event_id     uuid,
  table_name   text,
  record_key   text,
  version      bigint,
  reason       text not null,
  detail       text not null default '',
  event        bytea not null,
  attempts     integer not null default 1 check (attempts > 0),
  parked_at    timestamptz not null default clock_timestamp(),
  retried_at   timestamptz not null default clock_timestamp(),
  unique (topic, partition, kafka_offset)
);
alter table replication.parked_events
  add column if not exists blocked_by text,
  add column if not exists message_key bytea, add column if not exists signature bytea,
  drop constraint if exists parked_events_reason_check,
  add constraint parked_events_reason_check check (reason in ('missing_parent', 'referenced', 'clock_skew',
    'unknown_column', 'unknown_table', 'missing_table', 'unique_conflict', 'displaced', 'constraint',
    'bad_value', 'malformed', 'fenced_contour', 'too_old', 'forged_origin', 'unknown_contour', 'bad_signature'));
create index if not exists parked_events_table on replication.parked_events (table_name, id);

-- Concurrent writes of one row, one of which had to give way, and how it was decided here. `reason` says
-- what lost and what won: update_delete is an update that lost to a delete. Images hold each column as
-- PostgreSQL's text; a deleted side has none. `resolution` is the side an operator chose in the end.
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
alter table replication.replication_conflicts
  add column if not exists reason text check (reason in ('update_update', 'update_delete',
    'delete_update', 'insert_insert', 'insert_delete')),
  add column if not exists resolved_at timestamptz,
  add column if not exists resolved_by text,
  add column if not exists resolution text check (resolution in ('incoming', 'current'));
create index if not exists replication_conflicts_age
  on replication.replication_conflicts (recorded_at);
do $$ begin
  -- Before version 3 a repeated event could be recorded again.
  if to_regclass('replication.replication_conflicts_loser') is null then
    delete from replication.replication_conflicts c using replication.replication_conflicts former
     where former.id < c.id and former.table_name = c.table_name and former.record_key = c.record_key
       and least(former.incoming_version, former.current_version) = least(c.incoming_version, c.current_version);
    -- A write loses once in a contour. md5, as keys may be long.
    create unique index replication_conflicts_loser on replication.replication_conflicts
      (table_name, md5(record_key), least(incoming_version, current_version));
  end if;
end $$;

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

-- Counters of a publisher since its last heartbeat, which adds them to its row in `workers` and goes on
-- with the next `part`. A row updated in each batch has as many dead versions as there were batches
-- while somebody holds an old snapshot, and each update walks over them; here these are few.
create table if not exists replication.worker_counts (
  instance        text not null,
  part            bigint not null,
  batches         bigint not null default 0,
  processed       bigint not null default 0,
  failed          bigint not null default 0,
  bytes           bigint not null default 0,
  last_success_at timestamptz,
  primary key (instance, part)
) with (fillfactor = 50);

-- Events that an operator gave up, whole, with who did it and why. Nothing removes them.
create table if not exists replication.discarded_events (
  id             bigint generated always as identity primary key,
  side           text not null check (side in ('publish', 'apply')),
  event_id       uuid,
  table_name     text,
  record_key     text,
  operation      text,
  version        bigint,
  event          bytea,
  parked_reason  text not null,
  parked_detail  text not null default '',
  parked_at      timestamptz not null,
  attempts       integer not null,
  discarded_at   timestamptz not null default clock_timestamp(),
  discarded_by   text not null default session_user,
  because        text not null check (because <> '')
);
