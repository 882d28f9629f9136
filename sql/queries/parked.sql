-- Parked events of both sides, for operators. Lists show keys and reasons, and no row values.
-- Placeholders in %(…)s are parameters; a filter that is null lets everything pass.

-- name: parked_publish
-- The queue's events that wait for an operator; with %(backing_off)s those that are refused and tried
-- again by themselves. `reason` is Kafka's error code. Index: replication_queue_held, which holds the
-- held rows only, and once more for the events behind those that are shown.
select 'publish' as side, p.id, p.table_name, p.record_key, p.reason,
       coalesce(regexp_replace(p.last_error, '^[A-Z_0-9]+: ', ''), '') as detail,
       p.attempts, p.parked_at, p.retry_at, p.event_id, p.operation, p.version,
       (select count(*) from replication.replication_queue q
         where q.held and hashtext(q.record_key) = hashtext(p.record_key) and q.record_key = p.record_key
           and q.table_name = p.table_name and q.parked_at is null and q.retry_at is null and q.id > p.id)
         as behind,
       p.payload is not null or p.operation = 'DELETE' as retriable, null::text as blocked_by
  from (select q.*, case when payload is null and operation <> 'DELETE' then 'too_large'
                         else coalesce(substring(last_error from '^([A-Z_0-9]+): '), 'refused') end as reason
          from replication.replication_queue q
         where held and case when %(backing_off)s then parked_at is null and retry_at is not null
                             else parked_at is not null end) p
 where (%(table)s::text is null or p.table_name = %(table)s)
   and (%(reason)s::text is null or lower(p.reason) = lower(%(reason)s))
   and (%(ids)s::bigint[] is null or p.id = any(%(ids)s))
 order by p.parked_at, p.retry_at, p.id
 limit %(limit)s

-- name: parked_apply
-- Remote events that can't be applied here. Index: parked_events_table.
select 'apply' as side, id, table_name, record_key, reason, detail, attempts, parked_at,
       null::timestamptz as retry_at, event_id, null::text as operation, version,
       null::bigint as behind, reason <> 'malformed' as retriable, blocked_by
  from replication.parked_events
 where (%(table)s::text is null or table_name = %(table)s)
   and (%(reason)s::text is null or lower(reason) = lower(%(reason)s))
   and (%(ids)s::bigint[] is null or id = any(%(ids)s))
 order by parked_at, id
 limit %(limit)s

-- name: backing_off
-- How many refused events will be tried again, when the first one will, and how many wait behind them
-- or behind parked ones. Index: replication_queue_held.
select count(*) filter (where retry_at is not null and parked_at is null),
       greatest(0, date_part('epoch', min(retry_at) filter (where parked_at is null) - clock_timestamp())),
       count(*) filter (where retry_at is null and parked_at is null)
  from replication.replication_queue where held

-- name: image_publish
-- One event as it would go to Kafka: its first %(limit)s characters, and how many bytes there are.
-- Index: replication_queue_held.
select left(value, %(limit)s), octet_length(value)
  from replication.replication_queue q
 cross join lateral (
   select replication.event_value(q.operation, q.record_key, q.before, q.payload, %(head)s, q.txid,
                                  q.created_at, q.event_id, q.version, q.base_version, q.shape, q.merge, q.snapshot_to,
                                  %(sent)s) as value) v
 where q.held and q.id = %(id)s

-- name: image_apply
-- Index: the primary key.
select event from replication.parked_events where id = %(id)s

-- name: shapes
-- The fingerprint of the columns that an event was written with, and that of the table here. Read off our
-- own events' last bytes. Index: the primary key.
select substring(encode(substring(p.event from greatest(octet_length(p.event) - 127, 1)), 'escape')
                 from '"schema_fingerprint":"([0-9a-f]+)"\},"op":"[crud]","ts_ms":[0-9]+\}$'),
       (select (replication.whole_row(r.table_id)).shape from replication.replicated_tables r
         where r.table_name = p.table_name)
  from replication.parked_events p where p.id = %(id)s

-- name: retry_publish
-- Waiting again, with all attempts before it; `release_behind` follows. A row that was too large for
-- its image stays: there is nothing to send. Under the locks of all shards (shards.sql).
-- Index: replication_queue_held.
update replication.replication_queue
   set parked_at = null, held = false, retry_at = null, attempts = 0
 where held and parked_at is not null and id = any(%(ids)s::bigint[])
   and (payload is not null or operation = 'DELETE')
returning table_name, record_key

-- name: retry_apply
-- Due at once; an applier takes it within consumer.retry_parked. Locks: the rows; waits for an applier
-- that tries one of them at this moment. What is no event at all is never tried.
update replication.parked_events
   set retried_at = '-infinity', attempts = 1
 where id = any(%(ids)s::bigint[]) and reason <> 'malformed'
returning table_name, record_key

-- name: discard_publish
-- From the queue into the record of discarded events, whole; one without its image with its key alone.
-- Nobody can claim a parked row, and `release_behind` follows. Under the locks of all shards (shards.sql).
-- Index: replication_queue_held.
with gone as (
  delete from replication.replication_queue
   where held and parked_at is not null and id = any(%(ids)s::bigint[])
  returning *
)
insert into replication.discarded_events
  (side, event_id, table_name, record_key, operation, version, event, parked_reason, parked_detail,
   parked_at, attempts, discarded_by, because)
select 'publish', q.event_id, q.table_name, q.record_key, q.operation, q.version,
       case when q.payload is not null or q.operation = 'DELETE'
            then convert_to(replication.event_value(q.operation, q.record_key, q.before, q.payload,
                                                    %(heads)s::jsonb ->> q.table_name, q.txid, q.created_at,
                                                    q.event_id, q.version, q.base_version, q.shape, q.merge, q.snapshot_to,
                                                    %(sent)s), 'UTF8')
            end,
       c.reason, c.detail, q.parked_at, q.attempts, session_user || %(who)s, %(because)s
  from gone q
  join unnest(%(ids)s::bigint[], %(reasons)s::text[], %(details)s::text[]) as c(id, reason, detail)
    on c.id = q.id
 order by q.id
returning table_name, record_key

-- name: release_behind
-- The events behind those retried or discarded wait for a publisher again, in their order; those that stand behind
-- another held event of the key are held again by the next claim. Under the locks of all shards (shards.sql).
-- Index: replication_queue_held.
update replication.replication_queue q
   set held = false
  from (select distinct * from unnest(%(tables)s::text[], %(keys)s::text[]) as k(table_name, record_key)) k
 where q.held and hashtext(q.record_key) = hashtext(k.record_key) and q.record_key = k.record_key
   and q.table_name = k.table_name and q.parked_at is null and q.retry_at is null

-- name: discard_apply
-- Locks: the rows; waits for an applier that tries one of them at this moment, and leaves those that
-- it has applied meanwhile. The operation is read off our own events' last bytes.
with gone as (
  delete from replication.parked_events where id = any(%(ids)s::bigint[])
  returning *
)
insert into replication.discarded_events
  (side, event_id, table_name, record_key, operation, version, event, parked_reason, parked_detail,
   parked_at, attempts, discarded_by, because)
select 'apply', event_id, table_name, record_key,
       case substring(encode(substring(event from greatest(octet_length(event) - 63, 1)), 'escape')
                      from '\},"op":"([crud])","ts_ms":[0-9]+\}$')
            when 'c' then 'INSERT' when 'u' then 'UPDATE' when 'd' then 'DELETE' when 'r' then 'SNAPSHOT' end,
       version, event, reason, detail, parked_at, attempts, session_user || %(who)s, %(because)s
  from gone order by id
returning table_name, record_key

-- name: how_much
-- Read whole, but for what is stored apart. Seen with what this transaction has parked.
select count(*), coalesce(sum(octet_length(event)), 0) from replication.parked_events
