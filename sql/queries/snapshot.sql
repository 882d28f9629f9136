-- Statements of a snapshot (sql/schema/47_snapshots.sql). `{…}` are identifiers and lists of one table, filled in by
-- postgres/snapshot_table.py; %(…)s are parameters. Isolation: READ COMMITTED.
--
-- A chunk is a transaction:
--   take_part     whoever has a part's row goes on with it. It also draws the transaction's number before anything
--                 is read, by which heartbeats know what was written in ignorance of a delete
--   last_key      where the chunk ends
--   chunk         rows are locked, FOR SHARE SKIP LOCKED; the locked ones are queued, the others noted
--   move_part, commit
-- No lock is waited for while rows are locked, so no user's transaction can be the victim of a deadlock.

-- name: start_one
-- Whoever begins, resumes or gives up a run of the table does so alone. Until commit.
select pg_advisory_xact_lock(hashtext('replication.snapshot'), hashtext(%(table)s))

-- name: running
-- Index: snapshots_running.
select id, table_id, key_columns, send_to, filter, started_at from replication.snapshots
 where table_name = %(table)s and finished_at is null and given_up_at is null

-- name: give_up
-- Its parts go, so whoever is at it finds nothing more to do. Waits for chunks that are being written.
with parts as (
  delete from replication.snapshot_parts where snapshot_id = %(id)s returning queued, part
), skipped as (
  delete from replication.snapshot_skipped where snapshot_id = %(id)s
)
update replication.snapshots
   set given_up_at = clock_timestamp(),
       queued = queued + (select coalesce(sum(queued), 0) from parts where part > 0),
       deletes = deletes + (select coalesce(sum(queued), 0) from parts where part = 0)
 where id = %(id)s

-- name: begin
insert into replication.snapshots (table_id, table_name, key_columns, send_to, filter, estimate)
values (%(table_id)s, %(table)s, %(keys)s, %(to)s, %(where)s, %(estimate)s)
returning id, started_at

-- name: add_parts
-- `ends` are the last keys of all parts but the last one, as an array of arrays in JSON.
insert into replication.snapshot_parts (snapshot_id, part, reached, ends)
select %(id)s, 0, null, null
 union all
select %(id)s, n, (select array_agg(k) from jsonb_array_elements_text(%(ends)s::jsonb -> (n - 2)) k where n > 1),
       (select array_agg(k) from jsonb_array_elements_text(%(ends)s::jsonb -> (n - 1)) k)
  from generate_series(1, jsonb_array_length(%(ends)s::jsonb) + 1) n

-- name: size
-- Pages and rows, by the statistics of the server and the size of the files.
select coalesce(sum(pg_relation_size(c.oid) / 8192), 0)::bigint, coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
  from replication.parts_of(%(relation)s::oid::regclass) p join pg_catalog.pg_class c on c.oid = p
 where c.relkind = 'r'

-- name: explain
explain (format json) select from {table} as {alias} where {filter}

-- name: probe
-- Whether the filter bears with rows.
select count(*) from (select * from {table} limit 1000) as {alias} where {filter}

-- name: quantiles
-- Last keys of parts, from a sample of pages, in the order of the primary key.
with __sample as (
  select {keys_as} from {table} as {alias} tablesample system (%(percent)s)
), __ranked as (
  select __k.*, row_number() over (order by {sampled}) as __n, count(*) over () as __all from __sample __k
)
select array[{sampled_texts}] from __ranked __k
 where __n in (select i * __all / %(parts)s from generate_series(1, %(parts)s - 1) i)
 order by {sampled}

-- name: take_part
-- Lock: a part's row, FOR UPDATE SKIP LOCKED. Index: the primary key.
select part, reached, ends from replication.snapshot_parts
 where snapshot_id = %(id)s and not done and part >= %(lowest)s order by part limit 1 for update skip locked

-- name: move_part
update replication.snapshot_parts
   set reached = coalesce(%(reached)s::text[], reached), queued = queued + %(queued)s, done = %(done)s
 where snapshot_id = %(id)s and part = %(part)s

-- name: last_key
-- The key of the last row of a chunk; none when less rows are left. A plain read: a row that moves to a greater
-- key while it is waited for must not move the end of the chunk. Index: the primary key.
select array[{key_texts}] from {table} as {alias} where {range} order by {keys} offset %(rows)s - 1 limit 1

-- name: chunk
-- Locks: rows, FOR SHARE SKIP LOCKED, in key order, until commit. Who wants to write one waits so long, and its
-- event gets a greater id. Index: the primary key.
with __locked as materialized (
  select {alias}.tableoid as leaf, {alias}.ctid as place, {keys_as} from {table} as {alias}
   where {range} and {filter} order by {keys} for share of {alias} skip locked
), __queued as (
  select coalesce(sum(replication.snapshot_rows(%(table_id)s, __l.leaf, __l.places, %(to)s)), 0)::bigint as n
    from (select leaf, array_agg(place) as places from __locked group by leaf) __l
), __skipped as (
  insert into replication.snapshot_skipped (snapshot_id, record_key)
  select %(id)s, array[{key_texts}] from {table} as {alias}
   where {range} and {filter} and not exists (select from __locked __l where {same_key})
  returning 1
)
select (select n from __queued), (select count(*) from __skipped)

-- name: revisit
-- Rows that were skipped: those that are free are queued, those that are gone are forgotten. Locks: as chunk.
with __due as materialized (
  select record_key, ctid as noted from replication.snapshot_skipped
   where snapshot_id = %(id)s order by visited_at limit %(rows)s for update skip locked
), __locked as materialized (
  select {alias}.tableoid as leaf, {alias}.ctid as place, array[{key_texts}] as key from {table} as {alias}
   where ({keys}) in (select {due_keys} from __due __d) and {filter}
   order by {keys} for share of {alias} skip locked
), __queued as (
  select coalesce(sum(replication.snapshot_rows(%(table_id)s, __l.leaf, __l.places, %(to)s)), 0)::bigint as n
    from (select leaf, array_agg(place) as places from __locked group by leaf) __l
), __present as materialized (
  select array[{key_texts}] as key from {table} as {alias}
   where ({keys}) in (select {due_keys} from __due __d) and {filter}
), __gone as (
  delete from replication.snapshot_skipped s using __due __d
   where s.ctid = __d.noted
     and (__d.record_key in (select key from __locked) or __d.record_key not in (select key from __present))
  returning 1
), __later as (
  update replication.snapshot_skipped s set visited_at = clock_timestamp()
    from __due __d
   where s.ctid = __d.noted
     and __d.record_key not in (select key from __locked) and __d.record_key in (select key from __present)
  returning 1
), __counted as (
  update replication.snapshots set queued = queued + (select n from __queued) where id = %(id)s
)
select (select n from __queued), (select count(*) from __later)

-- name: progress
select s.queued + coalesce(p.queued, 0), s.deletes + coalesce(p.deletes, 0), coalesce(p.left, 0),
       (select count(*) from replication.snapshot_skipped k where k.snapshot_id = s.id), s.estimate,
       s.finished_at is not null, s.given_up_at is not null
  from replication.snapshots s
 cross join lateral (
   select sum(queued) filter (where part > 0)::bigint as queued, sum(queued) filter (where part = 0)::bigint as deletes,
          count(*) filter (where not done) as left
     from replication.snapshot_parts where snapshot_id = s.id) p
 where s.id = %(id)s

-- name: finish
-- Only when nothing is left. The run's row is locked first, so of several that try one does it.
with run as (
  select id from replication.snapshots
   where id = %(id)s and finished_at is null and given_up_at is null
     and not exists (select from replication.snapshot_parts p where p.snapshot_id = %(id)s and not p.done)
     and not exists (select from replication.snapshot_skipped k where k.snapshot_id = %(id)s)
   for update
), parts as (
  delete from replication.snapshot_parts p using run where p.snapshot_id = run.id returning p.queued, p.part
)
update replication.snapshots s
   set finished_at = clock_timestamp(),
       queued = s.queued + (select coalesce(sum(queued), 0) from parts where part > 0),
       deletes = s.deletes + (select coalesce(sum(queued), 0) from parts where part = 0)
  from run where s.id = run.id

-- name: waiting
-- Unpublished events, counted up to a limit. Index: replication_queue_waiting.
select count(*) from (
  select from unnest(array[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]::smallint[]) as s(shard)
   cross join lateral (select from replication.replication_queue q
                        where q.shard = s.shard and not q.held and not q.published limit %(limit)s) q
   limit %(limit)s) w

-- name: publishers
select count(*) from replication.workers
 where role = 'publisher' and stopped_at is null and heartbeat_at > clock_timestamp() - interval '30 seconds'

-- name: other_contours
select name from replication.contours where name <> %(me)s and state <> 'forgotten' order by name

-- name: runs
select s.id, s.table_name, s.send_to, s.filter, s.started_at, s.finished_at, s.given_up_at,
       s.queued + coalesce((select sum(p.queued) from replication.snapshot_parts p
                             where p.snapshot_id = s.id and p.part > 0), 0)::bigint,
       s.deletes + coalesce((select sum(p.queued) from replication.snapshot_parts p
                              where p.snapshot_id = s.id and p.part = 0), 0)::bigint,
       s.started_by
  from replication.snapshots s order by s.id desc limit %(limit)s

-- name: tombstones
-- The next deletes whose key has no row. Version 1: a placeholder, which buries nothing. `newest` tells where
-- to go on, row or not. Index: the primary keys.
with __next as materialized (
  select b.record_key, b.long_key from replication.replication_tombstones b
   where b.table_name = %(table)s and b.record_key > %(after)s order by b.record_key limit %(rows)s
), __dead as (
  select b.record_key from __next b
    join replication.replication_tombstones s on s.table_name = %(table)s and s.record_key = b.record_key
   where s.version > 1
     and not exists (select from jsonb_to_record(coalesce(b.long_key, b.record_key)::jsonb) as r({key_definitions})
                       join {table} t on {ripe_key})
)
select (select count(*) from __next), (select max(record_key) from __next),
       coalesce((select array_agg(record_key) from __dead), '{{}}')

-- name: queue_deletes
select id, shard, tombstone, version from replication.snapshot_deletes(%(table_id)s, %(keys)s, %(to)s)

-- name: writers
-- Whoever may write to the table at this moment, prepared transactions included.
select distinct l.virtualtransaction from pg_catalog.pg_locks l
 where l.locktype = 'relation' and l.granted and l.pid is distinct from pg_backend_pid()
   and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
   and l.relation = any(select p::oid from replication.parts_of(%(relation)s::oid::regclass) p)
   and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')

-- name: take_back
-- Deletes whose key has a row by now, or a newer delete. Under the locks of their shards.
delete from replication.replication_queue q
 using unnest(%(ids)s::bigint[], %(shards)s::smallint[], %(keys)s::text[], %(versions)s::bigint[])
         as d(id, shard, tombstone, version)
 where q.shard = d.shard and not q.held and q.id = d.id and not q.published
   and (not exists (select from replication.replication_tombstones b
                     where b.table_name = %(table)s and b.record_key = d.tombstone and b.version = d.version)
        or exists (select from jsonb_to_record(q.record_key::jsonb) as r({key_definitions})
                     join {table} t on {ripe_key}))
