-- Statements of the publisher. Each header names a query; the comment below it tells its locks and
-- the index it stands on. Placeholders in %(…)s are parameters. A held row is never published; where
-- only `held` is asked for, that is so that replication_queue_held is used.

-- name: anything_waiting
-- A plain read, so that an idle publisher writes nothing. Index: replication_queue_waiting.
select exists (
  select from unnest(%(shards)s::smallint[], %(floors)s::bigint[]) as s(shard, floor)
   cross join lateral (select from replication.replication_queue q
                        where q.shard = s.shard and not q.held and q.id > s.floor and not q.published
                        limit 1) q)

-- name: anything_due
-- Whether held rows are to be tried again. Index: replication_queue_held.
select exists (select from replication.replication_queue
                where held and parked_at is null and retry_at <= clock_timestamp())

-- name: anything_held
-- Whether any will be. Index: replication_queue_held.
select exists (select from replication.replication_queue
                where held and parked_at is null and retry_at is not null)

-- name: newest_id
-- A sequence that nobody has drawn from shows the id that will come.
select last_value - (not is_called)::integer from replication.replication_queue_id_seq

-- name: own_number
-- After `newest_id`: whoever drew that id or a smaller one has a lower number.
select pg_current_xact_id()::text::bigint

-- name: lowest_running
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- name: first_waiting
-- The lowest unpublished id of each shard, held ones included, above a known floor.
-- Index: replication_queue_waiting.
select s.shard, least((select min(q.id) from replication.replication_queue q
                        where q.shard = s.shard and not q.held and q.id > s.floor and not q.published),
                      (select min(q.id) from replication.replication_queue q
                        where q.shard = s.shard and q.held and q.id > s.floor and not q.published))
  from unnest(%(shards)s::smallint[], %(floors)s::bigint[]) as s(shard, floor)

-- name: refresh_captures
-- After a change of a table's columns, its capture function is compiled again.
select replication.refresh_captures()

-- name: heads
-- The constant beginning of `source` in the events of each table, as one JSON object by table name.
select coalesce(json_object_agg(t.table_name, %(source)s || to_json(n.nspname)::text
                                              || ',"table":' || to_json(c.relname)::text), '{}')::text
  from replication.replicated_tables t
  join pg_catalog.pg_class c on c.oid = t.relation
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace

-- name: publishers_alive
-- Publishers share the shards evenly; a dead one stops counting after 30 s. And the server's clock.
select count(*), date_part('epoch', clock_timestamp()) from replication.workers
 where role = 'publisher' and stopped_at is null
   and heartbeat_at > clock_timestamp() - interval '30 seconds'

-- name: lock_shards
-- Locks up to %(share)s shard rows FOR UPDATE until commit, beginning at another one each time.
-- Must be a statement of its own: the claim that follows then sees all that the shards' former
-- holders have committed. And what had been committed before.
select shard, (select pg_current_snapshot()::text::varchar) from replication.publish_shards
 order by (shard + %(rotation)s) %% 16
 limit %(share)s for update skip locked

-- name: published_later
-- Of each key, the events that were published since %(since)s and come after the id given with the key, as `claim` has
-- them. Under the locks of their shards (shards.sql), so nothing newer is sent before they are.
-- Index: replication_queue_published (BRIN).
select q.id, q.shard, q.ring_slot, q.ctid::text::varchar, q.table_name::varchar, q.record_key,
       (date_part('epoch', q.created_at) * 1000000)::bigint, false,
       coalesce(pg_column_size(q.payload), 0) + coalesce(pg_column_size(q.before), 0),
       replication.event_value(q.operation, q.record_key, q.before, q.payload,
                               %(heads)s::jsonb ->> q.table_name, q.txid, q.created_at, q.event_id,
                               q.version, q.base_version, q.shape, q.merge, q.snapshot_to, %(sent)s)
  from replication.replication_queue q
  join unnest(%(tables)s::text[], %(keys)s::text[], %(ids)s::bigint[]) as l(table_name, record_key, id)
    on q.table_name = l.table_name and q.record_key = l.record_key and q.id > l.id
 where q.published and q.published_at >= to_timestamp(%(since)s)
   and %(heads)s::jsonb ? q.table_name
 order by q.id

-- name: prepare_lock
-- `lock_shards`, and the shards that it got noted for `claim_noted`, each with the floor (one for each shard, in
-- order) above which it is to be claimed.
prepare lock_noted(integer, integer, bigint[]) as
with locked(shard, seen) as materialized ({lock_shards})
select array_agg(shard), min(seen)::varchar,
       set_config('{shards}', coalesce(array_agg(shard), array[]::smallint[])::text, true),
       set_config('{floors}', coalesce(array_agg($3[shard + 1]), array[]::bigint[])::text, true)
  from locked

-- name: prepare_claim
-- `claim` of the shards that `lock_noted` got: up to $1 rows, up to $2 of each shard, sent at $3.
prepare claim_noted(integer, integer, bigint) as
{claim}

-- name: release_due
-- Held rows whose time has come, and those behind them, wait again. Under the locks of their shards.
-- Indexes: replication_queue_waiting, replication_queue_held.
with due as (
  update replication.replication_queue
     set held = false, retry_at = null
   where shard = any(%(shards)s::smallint[]) and held and not published and parked_at is null
     and retry_at <= clock_timestamp()
  returning table_name, record_key
)
update replication.replication_queue q
   set held = false
  from (select distinct table_name, record_key from due) as d
 where q.held and hashtext(q.record_key) = hashtext(d.record_key) and q.record_key = d.record_key
   and q.table_name = d.table_name and q.parked_at is null and q.retry_at is null

-- name: claim
-- Locks up to %(limit)s rows FOR UPDATE, up to %(each)s of the oldest of each locked shard, and encodes
-- them. Rows of many shards that were written together lie together: the same pages serve all.
-- Index: replication_queue_waiting, one range a shard and partition, so depth costs nothing.
-- Not those `in_hand`, which this turn has claimed already; and where the floors are those of this turn, only what was
-- committed when it began (%(seen)s, else null): an event above them may follow one of its key that was committed below
-- them since. `value` is empty for a row that must wait behind a held one of its key (`fenced`; index
-- replication_queue_held), and for one that `read` brings by itself: one with more than %(large)s bytes,
-- whose `size` is then that of the text, or one of a table that has just been set up.
select q.id, q.shard, q.ring_slot, q.ctid::text::varchar, q.table_name::varchar, q.record_key,
       (date_part('epoch', q.created_at) * 1000000)::bigint, q.fenced,
       case when q.stored <= %(large)s then q.stored
            else coalesce(octet_length(q.payload::text), 0) + coalesce(octet_length(q.before::text), 0) end,
       coalesce(case when not q.fenced and q.stored <= %(large)s
                     then replication.event_value(q.operation, q.record_key, q.before, q.payload,
                                                  %(heads)s::jsonb ->> q.table_name, q.txid,
                                                  q.created_at, q.event_id, q.version,
                                                  q.base_version, q.shape, q.merge, q.snapshot_to, %(sent)s) end, '')
  from (
    select q.*, coalesce(pg_column_size(q.payload), 0) + coalesce(pg_column_size(q.before), 0) as stored,
           (select exists (select from replication.replication_queue where held))
             and exists (select from replication.replication_queue p
                          where p.held and hashtext(p.record_key) = hashtext(q.record_key)
                            and p.record_key = q.record_key and p.table_name = q.table_name
                            and p.id < q.id) as fenced
      from unnest(%(shards)s::smallint[], %(floors)s::bigint[]) as s(shard, floor)
     cross join lateral (
       select q.*, q.ctid from replication.replication_queue q
        where q.shard = s.shard and not q.held and q.id > s.floor and not q.published
          and q.id <> all(%(in_hand)s::bigint[])
          and (%(seen)s::txid_snapshot is null or txid_visible_in_snapshot(q.txid, %(seen)s::txid_snapshot))
        order by q.id
        limit %(each)s
        for update of q skip locked) q
     limit %(limit)s) q

-- name: read
-- One locked row's value.
select replication.event_value(q.operation, q.record_key, q.before, q.payload, %(head)s, q.txid,
                               q.created_at, q.event_id, q.version, q.base_version, q.shape, q.merge, q.snapshot_to, %(sent)s)
  from replication.replication_queue q
 where q.ring_slot = %(slot)s and q.ctid = %(ctid)s::tid

-- name: mark_published
-- Rows are locked by the claim, so each stands where the claim saw it: no index is needed.
update replication.replication_queue
   set published = true, published_at = clock_timestamp(), last_error = null
 where ring_slot = %(slot)s and ctid = any(%(ctids)s::tid[]) and not published

-- name: hold_fenced
-- Out of the way of further claims, until `release_due` or an operator takes the row before away.
update replication.replication_queue set held = true
 where ring_slot = %(slot)s and ctid = any(%(ctids)s::tid[]) and not published

-- name: hold_refused
-- Counts the attempt and sets the time of the next; the last one parks the row.
-- Index: replication_queue_waiting.
update replication.replication_queue q
   set attempts = q.attempts + 1, last_error = r.error, held = true,
       retry_at = clock_timestamp()
                  + least(%(longest)s, %(first)s * 2 ^ least(q.attempts, 30)) * interval '1 second',
       parked_at = case when q.attempts + 1 >= %(max_attempts)s then clock_timestamp() end
  from unnest(%(shards)s::smallint[], %(ids)s::bigint[], %(errors)s::text[]) as r(shard, id, error)
 where q.shard = r.shard and not q.held and q.id = r.id and not q.published
returning q.parked_at is not null

-- name: count_published
-- The lane's own row; the publisher's first lane takes it away between two of its turns.
insert into replication.worker_counts as w
  (instance, part, batches, processed, failed, bytes, last_success_at)
values (%(instance)s, %(part)s, %(batches)s, %(processed)s, %(failed)s, %(bytes)s,
        case when %(processed)s > 0 then clock_timestamp() end)
on conflict (instance, part) do update
   set batches = w.batches + excluded.batches, processed = w.processed + excluded.processed,
       failed = w.failed + excluded.failed, bytes = w.bytes + excluded.bytes,
       last_success_at = coalesce(excluded.last_success_at, w.last_success_at)

-- name: finish_turn
-- `mark_published` of the rows at the places $2 in the slots $1, $3 altogether, and `count_published`. Lives as long as
-- the session.
create or replace function pg_temp.finish_turn(smallint[], text[], bigint, integer, bigint, bigint, bigint, bigint)
returns void language plpgsql as $finish_turn$
#variable_conflict use_column
declare
  marked bigint := 0; n bigint;
begin
  for i in 1 .. cardinality($1) loop
    {mark_published};
    get diagnostics n = row_count;
    marked := marked + n;
  end loop;
  if marked <> $3 then
    raise serialization_failure using message = format(
      '%s of %s claimed events were changed by somebody else meanwhile', $3 - marked, $3);
  end if;
  if $5 > 0 then
    {count_published};
  end if;
end $finish_turn$

-- name: heartbeat
-- Adds what was counted since the last one, but for a lane that is counting at this moment.
with counted as (
  delete from replication.worker_counts
   where (instance, part) in (select instance, part from replication.worker_counts
                               where instance = %(instance)s for update skip locked)
  returning batches, processed, failed, bytes, last_success_at
)
insert into replication.workers as w
  (instance, role, batches, processed, failed, bytes, last_success_at)
select %(instance)s, 'publisher', coalesce(sum(batches), 0), coalesce(sum(processed), 0),
       coalesce(sum(failed), 0), coalesce(sum(bytes), 0), max(last_success_at) from counted
on conflict (instance) do update
   set heartbeat_at = clock_timestamp(), stopped_at = null,
       batches = w.batches + excluded.batches, processed = w.processed + excluded.processed,
       failed = w.failed + excluded.failed, bytes = w.bytes + excluded.bytes,
       last_success_at = coalesce(excluded.last_success_at, w.last_success_at)
