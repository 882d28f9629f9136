-- What the exporter tells. A column that is called like a metric is its value, the others are its labels; null is
-- no sample. The metrics are described in replication_pipeline/domain/metrics.py. What tells them only reads, each
-- statement in its own snapshot; no lock is waited for.

-- name: info
select %(version)s::text as version, id::text as contour_id, schema_version::text as schema_version,
       1 as replication_info
  from replication.contour

-- name: backlog
-- Counted up to two million, so that a deep queue is told too. Index: replication_queue_waiting.
select count(*) as replication_unpublished_events,
       count(*) filter (where held and parked_at is null) as replication_held_events
  from (select held, parked_at from replication.replication_queue where not published limit 2000000) q

-- name: lag
-- The oldest of each shard by its id, which costs the same however deep the queue is. Index: replication_queue_waiting.
select greatest(0, coalesce(date_part('epoch', clock_timestamp() - min(q.created_at)), 0))
         as replication_publish_lag_seconds
  from generate_series(0, 15) as s(shard) cross join (values (false), (true)) as v(held)
 cross join lateral (
   select q.created_at from replication.replication_queue q
    where q.shard = s.shard::smallint and q.held = v.held and not q.published order by q.id limit 1) q

-- name: workers
-- Counters of all that ever ran. A worker is alive while its heartbeat is fresh, as in replication.status.
select r.role,
       count(*) filter (where w.stopped_at is null and w.heartbeat_at > clock_timestamp() - interval '30 seconds')
         as replication_workers,
       coalesce(sum(w.batches), 0) as replication_batches_total,
       coalesce(sum(w.processed), 0) as replication_events_processed_total,
       coalesce(sum(w.failed), 0) as replication_events_failed_total,
       coalesce(sum(w.bytes), 0) as replication_event_bytes_total,
       date_part('epoch', max(w.last_success_at)) as replication_last_success_timestamp_seconds
  from (values ('publisher'), ('applier')) as r(role)
  left join (select role, heartbeat_at, stopped_at, batches, processed, failed, bytes, last_success_at
               from replication.workers
              union all
             select 'publisher', null, null, batches, processed, failed, bytes, last_success_at
               from replication.worker_counts) w on w.role = r.role
 group by r.role

-- name: outcomes
select coalesce(sum(applied), 0) as replication_events_applied_total,
       coalesce(sum(skipped), 0) as replication_events_skipped_total,
       coalesce(sum(conflicts), 0) as replication_conflicts_total
  from replication.workers

-- name: queue
-- Figures of PostgreSQL's own statistics, no scan. Who may not see others' sessions is told nothing of their age,
-- rather than 0. Snapshots of this database alone hold its dead rows; those of vacuum don't.
select (select coalesce(sum(pg_stat_get_dead_tuples(inhrelid)), 0)
          from pg_inherits where inhparent = 'replication.replication_queue'::regclass)
         as replication_queue_dead_tuples,
       (select coalesce(sum(pg_total_relation_size(inhrelid)), 0)
          from pg_inherits where inhparent = 'replication.replication_queue'::regclass)
         as replication_queue_size_bytes,
       case when pg_has_role(current_user, 'pg_read_all_stats', 'usage') then greatest(0, coalesce(
         (select max(date_part('epoch', clock_timestamp() - since))
            from (select xact_start as since from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid()
                     and (backend_xmin is not null or backend_xid is not null) and backend_type <> 'autovacuum worker'
                   union all
                  select prepared from pg_prepared_xacts where database = current_database()) o), 0)) end
         as replication_oldest_snapshot_seconds

-- name: comparisons
select table_name as "table", differing as replication_compare_differing_rows,
       date_part('epoch', compared_at) as replication_compare_last_timestamp_seconds
  from replication.comparisons
 where table_name in (select table_name from replication.replicated_tables)

-- name: histograms
-- Of tables that are set up or configured, and of batches. Several rows of one add up.
select metric, table_name, array_agg(bucket order by n), (array_agg(total))[1]
  from (select h.metric, h.table_name, c.n, sum(c.number)::bigint as bucket, sum(h.total) as total
          from replication.histograms h cross join lateral unnest(h.counts) with ordinality c(number, n)
         where h.table_name = '' or h.table_name = any(%(tables)s::text[])
               or h.table_name in (select table_name from replication.replicated_tables)
         group by h.metric, h.table_name, c.n) b
 group by metric, table_name order by metric, table_name

-- name: add_to_histograms
-- Observations of one worker. Merges the rows of these metrics that nobody else is merging. Locks: FOR UPDATE SKIP
-- LOCKED.
with seen as (
  select * from unnest(%(metrics)s::text[], %(tables)s::text[], %(counts)s::text[], %(totals)s::numeric[])
         as s(metric, table_name, counts, total)
), former as (
  delete from replication.histograms
   where ctid = any(array(
     select h.ctid from replication.histograms h
      where (h.metric, h.table_name) in (select metric, table_name from seen)
        for update skip locked))
  returning metric, table_name, counts, total
), all_of_them as (
  select metric, table_name, counts::bigint[] as counts, total from seen union all select * from former
)
insert into replication.histograms (metric, table_name, counts, total)
select metric, table_name, array_agg(bucket order by n), (array_agg(total))[1]
  from (select a.metric, a.table_name, c.n, sum(c.number)::bigint as bucket, sum(a.total) as total
          from all_of_them a cross join lateral unnest(a.counts) with ordinality c(number, n)
         group by a.metric, a.table_name, c.n) b
 group by metric, table_name

-- name: may_keep_comparison
select coalesce(has_table_privilege(to_regclass('replication.comparisons'), 'insert'), false)

-- name: keep_comparison
insert into replication.comparisons (table_name, contours, row_count, differing, complete)
values (%(table)s, %(contours)s, %(rows)s, %(differing)s, %(complete)s)
on conflict (table_name) do update
   set compared_at = clock_timestamp(), contours = excluded.contours, row_count = excluded.row_count,
       differing = excluded.differing, complete = excluded.complete
