-- Statements of the heartbeats. All but `advance` and those after it commit by themselves.

-- name: beat
-- Only when a beat is due, and no other publisher is at it: lock FOR UPDATE SKIP LOCKED. Begins a round,
-- unless one is being taken. The time is that of the statement's start, the positions are those of its
-- snapshot, and the horizon is drawn after both: whoever has a lower number may not have seen them.
-- A position counts as applied up to the first parked event that may be a delete.
with due as (
  select from replication.heartbeat
   where sent_at is null or sent_at <= statement_timestamp() - %(interval)s::interval
      or sent_at > statement_timestamp() + %(interval)s::interval
     for update skip locked
), waiting as (
  select topic, partition, min(kafka_offset) as first
    from replication.parked_events
   where reason not in ('missing_parent', 'unknown_column', 'unique_conflict', 'malformed', 'too_old',
                        'fenced_contour')
   group by topic, partition
), applied as (
  select coalesce(jsonb_object_agg(topic, offsets), '{}') as offsets
    from (select t.topic, jsonb_agg(coalesce(least(o.next_offset, w.first), 0) order by n) as offsets
            from (select topic, max(partition) as last from replication.consumer_offsets group by topic) t
           cross join generate_series(0, t.last) n
            left join replication.consumer_offsets o on o.topic = t.topic and o.partition = n
            left join waiting w on w.topic = t.topic and w.partition = n
           group by t.topic) a
)
update replication.heartbeat h
   set sequence = h.sequence + 1, sent_at = clock_timestamp(),
       round_at = coalesce(h.round_at, statement_timestamp()),
       round_applied = coalesce(h.round_applied, (select offsets from applied)),
       round_horizon = coalesce(h.round_horizon, pg_current_xact_id())
 where exists (select from due)
returning h.sequence, replication.clock()

-- name: settle_round
-- All transactions below the horizon have ended. What they queued has ids up to the newest one now:
-- a sequence is read as of now, not as of the snapshot.
update replication.heartbeat
   set round_mark = (select last_value from replication.replication_queue_id_seq)
 where round_mark is null and round_horizon < pg_snapshot_xmin(pg_current_snapshot())

-- name: ready_round
-- The round, when nothing up to its mark is left to publish: waiting, held or parked.
-- Index: replication_queue_waiting. `floor`: below it everything was published at an earlier look.
select h.round_mark, (date_part('epoch', h.round_at) * 1000000)::bigint, h.round_applied
  from replication.heartbeat h
 where h.round_mark is not null
   and not exists (
     select from generate_series(0, 15) as s(shard) cross join (values (false), (true)) as v(held)
      cross join lateral (
        select from replication.replication_queue q
         where q.shard = s.shard::smallint and q.held = v.held and q.id > %(floor)s
           and q.id <= h.round_mark and not q.published limit 1) q)

-- name: captured_tables
select table_name from replication.replicated_tables

-- name: end_round
-- It is in the log; the next beat begins another one.
update replication.heartbeat
   set round_at = null, round_applied = null, round_horizon = null, round_mark = null
 where sequence = %(sequence)s

-- name: standing
-- This database as the registry knows it, and how far that is read.
select c.name, c.id, c.incarnation::text, h.sequence, l.next_offset, l.trouble,
       (select state from replication.contours k where k.name = c.name)
  from replication.contour c, replication.heartbeat h, replication.heartbeat_log l

-- name: log_position
select date_part('epoch', log_time), log_seconds from replication.heartbeat_log

-- name: contours
select name, id, incarnation::text, state, sequence, date_part('epoch', last_beat), last_heard,
       date_part('epoch', fenced_at), ahead
  from replication.contours order by name

-- name: advance
-- Compare and set, first of all, like the offsets of the tables' topics.
update replication.heartbeat_log
   set next_offset = %(next)s, log_time = to_timestamp(%(log_time)s::float8),
       log_seconds = %(log_seconds)s, trouble = %(trouble)s
 where next_offset is not distinct from %(expected)s

-- name: lock_log
select from replication.heartbeat_log for update

-- name: keep_contour
insert into replication.contours as c
  (name, id, incarnation, state, sequence, last_beat, last_heard, fenced_at, ahead, clock_ahead)
values (%(name)s, %(id)s, %(incarnation)s, %(state)s, %(sequence)s, to_timestamp(%(last_beat)s),
        %(last_heard)s, to_timestamp(%(fenced_at)s::float8), %(ahead)s, %(clock_ahead)s)
on conflict (name) do update
   set id = excluded.id, incarnation = excluded.incarnation, state = excluded.state,
       sequence = excluded.sequence, last_beat = excluded.last_beat, last_heard = excluded.last_heard,
       fenced_at = excluded.fenced_at, ahead = excluded.ahead, clock_ahead = excluded.clock_ahead

-- name: keep_round
insert into replication.contour_rounds (contour, log_offset, beat_at, taken_at, applied, ends)
values (%(contour)s, %(offset)s, to_timestamp(%(beat_at)s), to_timestamp(%(taken_at)s / 1000000.0),
        %(applied)s, %(ends)s)
on conflict do nothing

-- name: newest_round
select (date_part('epoch', taken_at) * 1000000)::bigint, applied, ends
  from replication.contour_rounds where contour = %(contour)s order by log_offset desc limit 1

-- name: thin_rounds
-- The newest sixteen, and of those before the first of each hour, for as long as a contour may lag.
with ranked as (
  select contour, log_offset, beat_at,
         row_number() over (order by log_offset desc) as age,
         row_number() over (partition by date_trunc('hour', beat_at) order by log_offset) as in_hour
    from replication.contour_rounds where contour = %(contour)s
)
delete from replication.contour_rounds r using ranked d
 where r.contour = d.contour and r.log_offset = d.log_offset and d.age > 16
   and (d.in_hour > 1 or d.beat_at < to_timestamp(%(beat_at)s) - %(keep)s * interval '1 second')

-- name: drop_rounds
delete from replication.contour_rounds where %(contour)s::text is null or contour = %(contour)s

-- name: rounds
select contour, (date_part('epoch', taken_at) * 1000000)::bigint, applied, ends
  from replication.contour_rounds order by log_offset

-- name: drop_floors
-- Deletes are no longer forgotten by the same measure: this contour's tables are loaded anew.
delete from replication.tombstone_floors

-- name: own_sequence
-- For an admission: above every beat that was seen.
update replication.heartbeat
   set sequence = greatest(sequence, %(seen)s) + 1, sent_at = null, round_at = null, round_applied = null,
       round_horizon = null, round_mark = null
returning sequence
