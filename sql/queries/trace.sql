-- One row's story. Plain reads, each in its own snapshot; no lock is waited for. `{…}` are identifiers of the
-- table that postgres/trace.py fills in. Asked in other contours as well, by roles that may only read.

-- name: keys
select n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
  from replication.replicated_tables r
  join pg_class c on c.oid = r.relation join pg_namespace n on n.oid = c.relnamespace
  join pg_constraint k on k.conrelid = r.relation and k.contype = 'p'
 cross join lateral unnest(k.conkey) with ordinality u(attnum, position)
  join pg_attribute a on a.attrelid = r.relation and a.attnum = u.attnum
 where r.table_name = %(table)s order by u.position

-- name: key_expression
-- SQL of the canonical key of a row t.
select w.key_expression from replication.replicated_tables r cross join lateral replication.whole_row(r.table_id) w
 where r.table_name = %(table)s

-- name: canonical
select {expression} from jsonb_to_record(%(key)s::jsonb) as t({definitions})

-- name: row
-- Index: the primary key.
select t.replication_version, case when %(values)s then (to_jsonb(t) - 'replication_version')::text end
  from {table} t where {same_key}

-- name: tombstone
-- Index: the primary keys of both tables. A version of 1 is a placeholder, and buries nothing.
select 'tombstone', version, deleted_at from replication.replication_tombstones
 where table_name = %(table)s and version > 1
   and record_key = case when octet_length(%(key)s) <= 1000 then %(key)s else 'md5:' || md5(%(key)s) end
union all
select 'displaced', version, displaced_at from replication.displaced_keys
 where table_name = %(table)s and version > 1
   and record_key = case when octet_length(%(key)s) <= 1000 then %(key)s else 'md5:' || md5(%(key)s) end

-- name: queue
-- A scan of the queue: published rows have no index by key.
select event_id::text, operation, version, base_version, created_at, published_at, held, attempts, last_error,
       parked_at, case when %(values)s then payload::text end
  from replication.replication_queue where record_key = %(key)s and table_name = %(table)s order by id

-- name: conflicts
-- Index: replication_conflicts_loser.
select event_id::text, recorded_at, reason, winner, incoming_contour, incoming_version, current_version, resolution
  from replication.replication_conflicts
 where table_name = %(table)s and md5(record_key) = md5(%(key)s) and record_key = %(key)s order by id

-- name: parked
-- Index: parked_events_table.
select event_id::text, parked_at, reason, detail, blocked_by, attempts, version, topic, partition, kafka_offset
  from replication.parked_events where table_name = %(table)s and record_key = %(key)s order by id

-- name: discarded
select event_id::text, discarded_at, side, operation, version, parked_reason, because
  from replication.discarded_events where table_name = %(table)s and record_key = %(key)s order by id

-- name: processed
-- Index: the primary key.
select event_id::text, processed_at from replication.processed_events where event_id = any(%(ids)s::uuid[])

-- name: positions
select partition, next_offset from replication.consumer_offsets where topic = %(topic)s

-- name: who
select name, id from replication.contour
