-- Sending published events again. The queue is only read; what is to be sent is noted in two temporary
-- tables. Placeholders in %(…)s are parameters; a filter that is null lets everything pass.

-- name: now
-- The clock, and how many batches publishers have counted, in the transactions that marked their events.
select clock_timestamp(),
       (select coalesce(sum(batches), 0) from replication.workers)
       + (select coalesce(sum(batches), 0) from replication.worker_counts)

-- name: create_notes
-- `republish_keys`: the keys chosen, each with the id of its first event to be sent, which names it.
-- `republish_rows`: that event and all later published ones of the key, and where they stand. A
-- published row is never updated, so it stays where it is until retention takes it.
create temporary table republish_keys (
  first_id bigint not null, shard smallint not null, table_name text not null, record_key text not null);
create temporary table republish_rows (
  first_id bigint not null, id bigint not null, shard smallint not null, slot smallint not null,
  place tid not null, size integer not null)

-- name: collect_keys
-- One scan of the queue, or of the part of it that replication_queue_published (BRIN) lets through.
insert into republish_keys
select min(id), shard, table_name, record_key from replication.replication_queue
 where published
   and (%(tables)s::text[] is null or table_name = any(%(tables)s))
   and (%(since)s::timestamptz is null or published_at >= %(since)s)
   and (%(until)s::timestamptz is null or published_at < %(until)s)
   and (%(keys)s::text[] is null or record_key::jsonb = any(%(keys)s::text[]::jsonb[]))
 group by shard, table_name, record_key
having min(id) >= %(from_id)s

-- name: collect_rows
-- One scan of the queue, joined with the keys by hashing.
insert into republish_rows
select k.first_id, q.id, q.shard, q.ring_slot, q.ctid,
       coalesce(pg_column_size(q.payload), 0) + coalesce(pg_column_size(q.before), 0)
  from replication.replication_queue q
  join republish_keys k on k.shard = q.shard and k.record_key = q.record_key and k.table_name = q.table_name
 where q.published and q.id >= k.first_id

-- name: index_notes
create unique index on republish_rows (first_id, id);
create index on republish_keys (hashtext(record_key));
analyze republish_keys;
analyze republish_rows

-- name: planned
select k.table_name, count(*), count(distinct r.first_id), sum(r.size)::bigint
  from republish_rows r join republish_keys k on k.first_id = r.first_id
 group by k.table_name order by k.table_name

-- name: oldest
-- Since when published rows are still there. The whole queue is read only where none is older than the
-- range. Index: replication_queue_published.
select case when not exists (select from replication.replication_queue
                              where published and published_at < %(since)s::timestamptz)
            then (select min(published_at) from replication.replication_queue where published) end

-- name: window
-- The next keys in the order of their first events, as many as have about %(rows)s rows together, whole.
select min(first_id), max(first_id)
  from (select first_id from republish_rows where first_id >= %(start)s order by first_id
         limit %(rows)s) w

-- name: shards_of_window
select distinct shard from republish_rows where first_id between %(first)s and %(last)s order by shard

-- name: catch_up
-- Notes what publishers have sent of the shard's chosen keys since %(seen)s. Under `lock_shard`, so all
-- of it is committed. Indexes: replication_queue_published, of which the part that vacuum has not seen yet
-- is read whole; then that of republish_keys.
insert into republish_rows
select k.first_id, q.id, q.shard, q.ring_slot, q.ctid,
       coalesce(pg_column_size(q.payload), 0) + coalesce(pg_column_size(q.before), 0)
  from replication.replication_queue q
  join republish_keys k on hashtext(k.record_key) = hashtext(q.record_key) and k.shard = q.shard
                       and k.record_key = q.record_key and k.table_name = q.table_name
 where q.published and q.published_at >= %(seen)s and q.shard = %(shard)s
   and q.id >= k.first_id and k.first_id >= %(first)s
on conflict (first_id, id) do nothing

-- name: page
-- The next rows of a shard's keys, in the order of ids.
select id, slot, place::text, size from republish_rows
 where first_id between %(first)s and %(last)s and shard = %(shard)s and id > %(after)s
 order by id limit %(rows)s

-- name: read
-- Rows by their places, with the same ids as when they were noted: retention may have been here.
select q.id, q.shard, q.ring_slot, q.ctid::text::varchar, q.table_name::varchar, q.record_key,
       (date_part('epoch', q.created_at) * 1000000)::bigint, false, 0,
       replication.event_value(q.operation, q.record_key, q.before, q.payload,
                               %(heads)s::jsonb ->> q.table_name, q.txid, q.created_at, q.event_id,
                               q.version, q.base_version, q.shape, q.merge, q.snapshot_to, %(sent)s)
  from replication.replication_queue q
 where q.ring_slot = %(slot)s and q.ctid = any(%(places)s::tid[]) and q.id = any(%(ids)s::bigint[])
   and q.published
