-- What the checks look at, every few seconds. Reads only, each in its own snapshot; no lock is waited for.

-- name: now
select date_part('epoch', clock_timestamp())

-- name: parked
-- Index: replication_queue_held for the first part.
select 'publish', table_name, 'refused by Kafka', count(*),
       date_part('epoch', clock_timestamp() - min(parked_at))
  from replication.replication_queue where held and parked_at is not null and not published
 group by table_name
union all
select 'apply', coalesce(table_name, ''), reason, count(*),
       date_part('epoch', clock_timestamp() - min(parked_at))
  from replication.parked_events
 group by table_name, reason
 order by 1, 2, 3

-- name: apply_lags
-- Both figures are as of the appliers' last look at Kafka.
select topic, sum(greatest(high_watermark - next_offset, 0))::bigint,
       date_part('epoch', clock_timestamp() - max(updated_at))
  from replication.consumer_offsets group by topic

-- name: arrived
-- By contour, the newest round whose ends are all read here: everything that the contour wrote before that
-- round was taken has arrived. Only topics that are read here count. Index: the primary key, backwards.
select k.name, date_part('epoch', r.taken_at)
  from replication.contours k
 cross join lateral (
   select taken_at from replication.contour_rounds r
    where r.contour = k.name
      and not exists (
        select from jsonb_each(r.ends) e(topic, ends)
         cross join lateral jsonb_array_elements_text(e.ends) with ordinality p(ends, n)
          left join replication.consumer_offsets o on o.topic = e.topic and o.partition = p.n - 1
         where e.topic = any(%(topics)s) and coalesce(o.next_offset, 0) < p.ends::bigint)
    order by log_offset desc limit 1) r

-- name: outcomes
-- Workers that ended more than an hour ago are folded into one row a role, and counted as ever only.
select coalesce(sum(processed), 0)::bigint, coalesce(sum(failed), 0)::bigint,
       coalesce(sum(processed) filter (where recent), 0)::bigint,
       coalesce(sum(failed) filter (where recent), 0)::bigint
  from (select processed, failed, instance not like 'ended %%' as recent from replication.workers
         union all
        select processed, failed, true from replication.worker_counts) w

-- name: queue_health
-- Snapshots of this database alone hold its dead rows; those of vacuum don't.
with leaves as (
  select inhrelid as relid from pg_inherits where inhparent = 'replication.replication_queue'::regclass
), holders as (
  select xact_start as since,
         format('session %%s of %%s (%%s)', pid, usename, coalesce(nullif(application_name, ''), 'no name')) as who
    from pg_stat_activity
   where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
     and (backend_xmin is not null or backend_xid is not null) and backend_type <> 'autovacuum worker'
  union all
  select prepared, format('prepared transaction %%s of %%s', gid, owner)
    from pg_prepared_xacts where database = current_database()
), oldest as (
  select since, who from holders order by since limit 1
)
select (select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_all_tables join leaves using (relid)),
       (select coalesce(sum(pg_total_relation_size(relid)), 0)::bigint from leaves),
       coalesce((select date_part('epoch', clock_timestamp() - since) from oldest), 0),
       coalesce((select who from oldest), ''),
       pg_has_role(current_user, 'pg_read_all_stats', 'usage')
