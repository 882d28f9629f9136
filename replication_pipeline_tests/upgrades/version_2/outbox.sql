-- Statements of the publisher of schema version 2, as they were released; test_upgrade.py runs them beside newer ones.
-- Statements of the publisher. Each header names a query; the comment below it tells its locks and
-- the index it stands on. Placeholders in %(…)s are parameters.

-- name: anything_waiting
-- A plain read, so that an idle publisher writes nothing. Index: replication_queue_waiting.
select exists (
  select from unnest(%(shards)s::smallint[], %(floors)s::bigint[]) as s(shard, floor)
   cross join lateral (select from replication.replication_queue q
                        where q.shard = s.shard and q.id > s.floor and not q.published
                          and q.parked_at is null limit 1) q)

-- name: newest_id
select last_value from replication.replication_queue_id_seq

-- name: own_number
-- After `newest_id`: whoever drew that id or a smaller one has a lower number.
select pg_current_xact_id()::text::bigint

-- name: lowest_running
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- name: first_waiting
-- The lowest unpublished id of each shard, parked ones included, above a known floor.
-- Index: replication_queue_waiting.
select s.shard, (select min(q.id) from replication.replication_queue q
                  where q.shard = s.shard and q.id > s.floor and not q.published)
  from unnest(%(shards)s::smallint[], %(floors)s::bigint[]) as s(shard, floor)

-- name: refresh_captures
-- After a change of a table's columns, its capture function is compiled again.
select replication.refresh_captures()

-- name: publishers_alive
-- Publishers share the shards evenly; a dead one stops counting after 15 s.
select count(*) from replication.workers
 where role = 'publisher' and stopped_at is null
   and heartbeat_at > clock_timestamp() - interval '15 seconds'

-- name: lock_shards
-- Locks up to %(share)s shard rows FOR UPDATE until commit, beginning at another one each time.
-- Must be a statement of its own: the claim that follows then sees all that the shards' former
-- holders have committed.
select shard from replication.publish_shards
 order by (shard + %(rotation)s) %% 16
 limit %(share)s for update skip locked

-- name: claim
-- Locks up to %(limit)s rows FOR UPDATE, oldest first within each locked shard, and encodes them, but
-- no more than about %(bytes)s. Index: replication_queue_waiting, one range a shard and partition, so
-- depth costs nothing. Rows behind a parked row of their key wait (replication_queue_parked). The
-- envelope is put together from text that PostgreSQL made; nobody parses it again on the way.
select q.id, q.shard, q.table_name, q.record_key, q.attempts, q.created_at,
       '{"before":' || coalesce(q.before::text, case when q.operation in ('UPDATE', 'DELETE')
                                                     then q.record_key else 'null' end)
       || ',"after":' || coalesce(q.payload::text, 'null')
       || ',"source":' || %(source)s || to_json(coalesce(n.nspname, 'public'))::text
       || ',"table":' || to_json(coalesce(c.relname, q.table_name))::text
       || ',"txId":' || q.txid
       || ',"ts_ms":' || (date_part('epoch', q.created_at) * 1000)::bigint
       || ',"event_id":"' || q.event_id
       || '","row_version":"' || q.version
       || '","base_version":' || coalesce('"' || q.base_version || '"', 'null')
       || '},"op":"' || case q.operation when 'INSERT' then 'c' when 'UPDATE' then 'u'
                                         when 'DELETE' then 'd' else 'r' end
       || '","ts_ms":' || (date_part('epoch', clock_timestamp()) * 1000)::bigint || '}'
  from (
    select q.*, sum(coalesce(pg_column_size(q.payload), 0) + coalesce(pg_column_size(q.before), 0))
                  over (order by q.id rows between unbounded preceding and 1 preceding) as bytes_before
      from (
        select q.*
          from unnest(%(shards)s::smallint[], %(floors)s::bigint[]) as s(shard, floor)
         cross join lateral (
           select * from replication.replication_queue q
            where q.shard = s.shard and q.id > s.floor and not q.published and q.parked_at is null
              and (not (select exists (select from replication.replication_queue where parked_at is not null))
                   or not exists (
                select from replication.replication_queue p
                 where p.parked_at is not null and hashtext(p.record_key) = hashtext(q.record_key)
                   and p.record_key = q.record_key and p.table_name = q.table_name and p.id < q.id))
            order by q.id
            limit %(limit)s
            for update of q skip locked) q
         limit %(limit)s) q) q
  left join replication.replicated_tables t on t.table_name = q.table_name
  left join pg_catalog.pg_class c on c.oid = t.relation
  left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where q.bytes_before is null or q.bytes_before < %(bytes)s
 order by q.id

-- name: mark_published
-- Rows are locked by the claim. Index: replication_queue_waiting.
update replication.replication_queue q
   set published = true, published_at = clock_timestamp(), last_error = null
  from unnest(%(shards)s::smallint[], %(ids)s::bigint[]) as m(shard, id)
 where q.shard = m.shard and q.id = m.id and not q.published

-- name: mark_refused
-- Counts the attempt; the last one parks the row. Index: replication_queue_waiting.
update replication.replication_queue q
   set attempts = q.attempts + 1, last_error = r.error,
       parked_at = case when q.attempts + 1 >= %(max_attempts)s then clock_timestamp() end
  from unnest(%(shards)s::smallint[], %(ids)s::bigint[], %(errors)s::text[]) as r(shard, id, error)
 where q.shard = r.shard and q.id = r.id and not q.published
returning q.parked_at is not null

-- name: count_published
-- The worker's own row; no one else writes it.
insert into replication.workers as w (instance, role, batches, processed, failed, bytes, last_success_at)
values (%(instance)s, 'publisher', %(batches)s, %(processed)s, %(failed)s, %(bytes)s,
        case when %(processed)s > 0 then clock_timestamp() end)
on conflict (instance) do update
   set heartbeat_at = clock_timestamp(), stopped_at = null,
       batches = w.batches + excluded.batches, processed = w.processed + excluded.processed,
       failed = w.failed + excluded.failed, bytes = w.bytes + excluded.bytes,
       last_success_at = coalesce(excluded.last_success_at, w.last_success_at)
