-- One row that answers "how is this contour?", for the command line, Dagster and any SQL client.
-- The waiting rows are counted through the partial index replication_queue_waiting.

drop view if exists replication.status;
create view replication.status as
select c.name as contour,
       q.unpublished,
       q.oldest_unpublished_seconds,
       q.parked_publish,
       q.held_publish,
       k.parked_apply, k.unique_conflicts,
       w.publishers, w.appliers,
       (select coalesce(sum(greatest(o.high_watermark - o.next_offset, 0)), 0)::bigint
          from replication.consumer_offsets o) as apply_lag_events,
       w.processed_total, w.failed_total, w.applied_total, w.skipped_total, w.conflicts_total,
       (select coalesce(max(k.clock_ahead) - min(k.clock_ahead), 0)::float8
          from replication.contours k where k.state = 'active') as clock_skew_seconds,
       (select count(*) from replication.contours k where k.state = 'fenced') as fenced_contours
  from replication.contour c
 cross join lateral (
   select count(*) as unpublished,
          coalesce(extract(epoch from clock_timestamp() - min(created_at))::float8, 0)
            as oldest_unpublished_seconds,
          count(*) filter (where parked_at is not null) as parked_publish,
          count(*) filter (where held and parked_at is null) as held_publish
     from replication.replication_queue where not published) q
 cross join lateral (
   select count(*) as parked_apply,
          count(*) filter (where reason in ('unique_conflict', 'displaced')) as unique_conflicts
     from replication.parked_events) k
 cross join lateral (
   -- A worker is alive while its heartbeat is fresh. It comes every 5 s, and within 25 s while
   -- Kafka lets a batch wait.
   select count(*) filter (where role = 'publisher' and alive) as publishers,
          count(*) filter (where role = 'applier' and alive) as appliers,
          coalesce(sum(processed) filter (where role = 'publisher'), 0)::bigint as processed_total,
          coalesce(sum(failed), 0)::bigint as failed_total,
          coalesce(sum(applied), 0)::bigint as applied_total,
          coalesce(sum(skipped), 0)::bigint as skipped_total,
          coalesce(sum(conflicts), 0)::bigint as conflicts_total
     from (select role, applied, skipped, conflicts, processed, failed, stopped_at is null
                     and heartbeat_at > clock_timestamp() - interval '30 seconds' as alive
             from replication.workers
            union all
           select 'publisher', 0, 0, 0, processed, failed, false from replication.worker_counts) w) w;

comment on view replication.status is
  'One row: backlog, lag in seconds, parked events, live workers and counters of this contour.';
