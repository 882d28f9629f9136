-- What waits too long, for Dagster's pages, and bringing the events of some hours on their way again.
-- Placeholders in %(…)s are parameters. An event belongs to the hour, in UTC, in which it was captured.

-- name: clock
select clock_timestamp()

-- name: hours
-- Unpublished events captured between %(since)s (null: ever) and %(until)s: of each hour, table and state how
-- many there are. Those before %(first)s count for the hour that begins then.
-- Index: replication_queue_waiting, all that is unpublished.
select greatest(date_trunc('hour', created_at, 'UTC'), %(first)s::timestamptz) as hour,
       case when parked_at is not null then 'parked' when not held then 'waiting'
            when retry_at is not null then 'refused' else 'behind' end as state,
       table_name,
       case when payload is null and operation <> 'DELETE' then 'too_large'
            when parked_at is not null or retry_at is not null
            then coalesce(substring(last_error from '^([A-Z_0-9]+): '), 'refused') else '' end as reason,
       count(*) as events, min(created_at) as oldest
  from replication.replication_queue
 where not published and created_at < %(until)s and (%(since)s::timestamptz is null or created_at >= %(since)s)
 group by 1, 2, 3, 4 order by 1, 2, 3, 4

-- name: parked_ids
-- Index: replication_queue_held.
select id from replication.replication_queue
 where held and parked_at is not null and created_at < %(until)s
   and (%(since)s::timestamptz is null or created_at >= %(since)s)
   and (%(tables)s::text[] is null or table_name = any(%(tables)s))

-- name: hurry
-- Refused events are due at once, with the attempts that they have left; not those that are parked.
-- Under the locks of all shards (shards.sql). Index: replication_queue_held.
update replication.replication_queue set retry_at = clock_timestamp()
 where held and parked_at is null and retry_at is not null and created_at < %(until)s
   and (%(since)s::timestamptz is null or created_at >= %(since)s)
   and (%(tables)s::text[] is null or table_name = any(%(tables)s))

-- name: on_their_way
-- How many unpublished events of those hours a publisher still takes by itself.
-- Index: replication_queue_waiting, all that is unpublished.
select count(*) from replication.replication_queue
 where not published and parked_at is null and (not held or retry_at is not null)
   and created_at < %(until)s and (%(since)s::timestamptz is null or created_at >= %(since)s)
   and (%(tables)s::text[] is null or table_name = any(%(tables)s))

-- name: undecided
-- Of events that were put on their way: how many are neither published nor parked nor behind such a one.
-- Index: replication_queue_waiting, all that is unpublished.
select count(*) from replication.replication_queue
 where not published and parked_at is null and (not held or retry_at is not null)
   and id = any(%(ids)s::bigint[])

-- name: tries
-- How often appliers have tried parked events. Index: the primary key.
select attempts from replication.parked_events where id = any(%(ids)s::bigint[])

-- name: parked_groups
-- What has been parked since before %(before)s: of each side, reason and table how many events, and since when.
-- Index: replication_queue_held; parked_events is read whole.
select 'publish' as side, reason, table_name, count(*) as events, min(parked_at) as since
  from (select table_name, parked_at,
               case when payload is null and operation <> 'DELETE' then 'too_large'
                    else coalesce(substring(last_error from '^([A-Z_0-9]+): '), 'refused') end as reason
          from replication.replication_queue where held and parked_at < %(before)s) p
 group by reason, table_name
 union all
select 'apply', reason, coalesce(table_name, '?'), count(*), min(parked_at)
  from replication.parked_events where parked_at < %(before)s
 group by reason, table_name
 order by 1 desc, 2, 3

-- name: tables
-- Each table's size, as the server last counted its rows, and what waits of it.
-- Index: replication_queue_waiting, all that is unpublished.
select t.table_name, greatest(c.reltuples, 0)::bigint as rows,
       coalesce((select sum(pg_total_relation_size(p.relid)) from pg_partition_tree(t.relation) p),
                pg_total_relation_size(t.relation))::bigint as bytes,
       coalesce(q.unpublished, 0) as unpublished,
       coalesce(p.parked, 0) as parked_apply, coalesce(x.conflicts, 0) as conflicts
  from replication.replicated_tables t
  join pg_catalog.pg_class c on c.oid = t.relation
  left join (select table_name, count(*) as unpublished from replication.replication_queue
              where not published group by table_name) q using (table_name)
  left join (select table_name, count(*) as parked from replication.parked_events
              group by table_name) p using (table_name)
  left join (select table_name, count(*) as conflicts from replication.replication_conflicts
              where resolved_at is null group by table_name) x using (table_name)
 order by t.table_name

-- name: topics
-- What appliers last heard of each topic: how many events it has had, and how many are not applied yet.
select topic, sum(high_watermark)::bigint as events,
       sum(greatest(high_watermark - next_offset, 0))::bigint as lag, count(*) as partitions
  from replication.consumer_offsets group by topic order by topic

-- name: queue_size
select coalesce(sum(pg_total_relation_size(relid)), 0)::bigint
  from pg_partition_tree('replication.replication_queue')
