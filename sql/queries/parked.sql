-- Parked events of both sides, for operators.

-- name: list_parked
-- Indexes: replication_queue_parked, parked_events_table. Names and reasons only, no row values but
-- those of the key.
select 'publish' as side, id, table_name, record_key, 'refused' as reason, coalesce(last_error, '') as detail,
       attempts, parked_at
  from replication.replication_queue where parked_at is not null
 union all
select 'apply', id, table_name, record_key, reason, detail, attempts, parked_at
  from replication.parked_events
 order by parked_at, side, id
 limit %(limit)s

-- name: lock_all_shards
-- Before a row's state is changed, so that no publisher sees half of it. In the order of shards; a
-- publisher gives its shards free within a second.
select shard from replication.publish_shards order by shard for update

-- name: retry_publish
-- Waiting again, with all attempts before it; its key's later events follow it. A row that was too
-- large for its image stays: there is nothing to send. Under `lock_all_shards`.
-- Index: replication_queue_held.
with chosen as (
  update replication.replication_queue
     set parked_at = null, held = false, retry_at = null, attempts = 0
   where held and parked_at is not null and (payload is not null or operation = 'DELETE')
     and (%(table)s::text is null or table_name = %(table)s)
     and (%(ids)s::bigint[] is null or id = any(%(ids)s))
  returning table_name, record_key
), released as (
  update replication.replication_queue q
     set held = false
    from (select distinct table_name, record_key from chosen) c
   where q.held and hashtext(q.record_key) = hashtext(c.record_key) and q.record_key = c.record_key
     and q.table_name = c.table_name and q.parked_at is null and q.retry_at is null
)
select count(*) from chosen

-- name: retry_apply
-- Due at once; an applier takes it within consumer.retry_parked.
with chosen as (
  update replication.parked_events
     set retried_at = '-infinity', attempts = 1
   where (%(table)s::text is null or table_name = %(table)s)
     and (%(ids)s::bigint[] is null or id = any(%(ids)s))
  returning id
)
select count(*) from chosen
