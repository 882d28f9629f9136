-- Statements of one apply transaction. `{…}` are identifiers and lists that the plan of a table
-- fills in (postgres/apply_plan.py); %(…)s are parameters. Isolation: READ COMMITTED, so that each
-- statement sees what was committed while the one before waited for a lock. Order:
--
--   advance_offsets      fences off every other consumer of these partitions
--   for each table, parents first:
--     stage, remember    events → rows of a temporary table, without those known already
--     reduce             newest per key, where keys have several
--     lock_rows          waits for local writers of the same rows
--     decide             Last-Write-Wins against the row and its tombstone
--     lock_parents, park_orphans
--     record_conflicts, upsert, sweep_resurrected
--   for each table, children first:
--     park_referenced, bury, delete_rows, count
--   count_applied, commit

-- name: fire_no_trigger
-- No trigger of this database fires: applied rows keep their values, and are not captured again. Foreign keys are
-- therefore checked here, see park_orphans and park_referenced. For the session, if that is ours alone, as every
-- change of this setting makes the server forget all the session's plans; else for the transaction.
select set_config('session_replication_role', 'replica', %(of_the_transaction)s)

-- name: backend
select pg_backend_pid()

-- name: bound_idle_time
-- Of the session: how long a transaction may stand still.
select set_config('idle_in_transaction_session_timeout', %(milliseconds)s, false)

-- name: defer_constraints
set constraints all deferred

-- name: check_constraints
set constraints all immediate

-- name: advance_offsets
-- Compare and set, first of all: a consumer whose partitions moved away meanwhile finds another
-- offset than it left and loses everything it was about to do. Lock: the offset rows.
with wanted as (
  select * from unnest(%(topics)s::text[], %(partitions)s::integer[], %(expected)s::bigint[],
                       %(next)s::bigint[], %(high)s::bigint[])
    as w(topic, partition, expected, next_offset, high_watermark)
   order by topic, partition
), moved as (
  insert into replication.consumer_offsets as o (topic, partition, next_offset, high_watermark)
  select topic, partition, next_offset, high_watermark from wanted w
   where w.expected = 0 or exists (select from replication.consumer_offsets o
                                    where o.topic = w.topic and o.partition = w.partition)
  on conflict (topic, partition) do update
     set next_offset = excluded.next_offset, high_watermark = excluded.high_watermark,
         updated_at = clock_timestamp()
   where o.next_offset = (select w.expected from wanted w
                           where w.topic = o.topic and w.partition = o.partition)
  returning 1
)
select count(*) = (select count(*) from wanted) from moved

-- name: stored_offsets
select topic, partition, next_offset from replication.consumer_offsets
 where (topic, partition) in (select * from unnest(%(topics)s::text[], %(partitions)s::integer[]))

-- name: create_stage
-- Once a session and table: the wire columns with the table's own types. Empty between transactions, see
-- clear_stage.
create temporary table if not exists {stage} (
  seq bigint, event_id uuid, contour text, version bigint, base_version bigint, op text,
  record_key text, missing_columns text[], current_version bigint, buried_version bigint,
  staged_version bigint,
  verdict text not null default 'apply', reason text, detail text not null default '', blocked_by text,
  {stage_definitions}
)

-- name: known_contours
select name, id, state from replication.contours

-- name: stage
-- Events of other contours, decoded (postgres/staging.py).
copy {stage} (seq, event_id, contour, version, base_version, op, record_key, missing_columns, verdict,
              reason, detail, {columns}) from stdin

-- name: clear_stage
-- After a small batch. A stage that is emptied by TRUNCATE, or ON COMMIT, makes the server plan all statements
-- anew that name it, which takes longer than a small batch itself. Dead rows go when pages are read again.
delete from {stage}

-- name: truncate_stage
-- Before and after a large batch: plans are made for as many rows as there are.
truncate {stage}

-- name: remember
-- Events that were processed before leave the stage again. The condition on the counts is evaluated
-- once: normally all are new, and nothing is looked for. Returns how many are.
with fresh as (
  insert into replication.processed_events (event_id) select event_id from {stage}
  on conflict do nothing
  returning event_id
), known as (
  delete from {stage}
   where (select count(*) from fresh) < %(staged)s and event_id not in (select event_id from fresh)
)
select count(*) from fresh

-- name: remember_new
-- The same at half the price, for a large batch whose events are all new: it looks for nothing before it
-- inserts. It fails where one is known; then remember takes its place.
insert into replication.processed_events (event_id) select event_id from {stage}

-- name: reduce
-- The newest event of each key stays; those that are to be parked hide no other. What one
-- contour did in several steps counts as one, from the version that the first step replaced. Of a key that
-- several contours wrote the others stay as `superseded`, with the highest version before them, for
-- record_conflicts; those are `rewritten` that their own writer followed by another. Returns how many are
-- to be applied.
with ranked as materialized (
  select s.ctid as place, row_number() over (same_key order by s.version desc, s.seq desc) as rank,
         case when bool_and(s.base_version is not null) over same_writer
              then min(s.base_version) over same_writer end as base,
         min(s.version & 1023) over same_key <> max(s.version & 1023) over same_key as several,
         max(s.version) over (same_key order by s.seq rows between unbounded preceding and 1 preceding)
           as staged_version,
         max(s.version) over same_writer > s.version as rewritten
    from {stage} s
  window same_key as (partition by s.record_key collate "C", s.reason is not null),
         same_writer as (partition by s.record_key collate "C",
                                      s.reason is not null, s.version & 1023)
), gone as (
  delete from {stage} s using ranked r where r.rank > 1 and not r.several and s.ctid = r.place
), newest as (
  update {stage} s set base_version = r.base
    from ranked r
   where r.rank = 1 and not r.several and s.ctid = r.place and s.base_version is distinct from r.base
), rivals as (
  update {stage} s
     set staged_version = r.staged_version,
         verdict = case when r.rank = 1 then s.verdict else 'superseded' end,
         reason = case when r.rank = 1 then s.reason when r.rewritten then 'rewritten' end
    from ranked r where r.several and s.ctid = r.place
)
select count(*) from ranked where rank = 1

-- name: lock_rows
-- Locks: the target rows, in key order. Index: primary key.
select count(*) from (
  select 1 from {table} t join {stage} s on {same_key} where s.verdict = 'apply'
   order by {target_keys} for update of t) locked

-- name: decide
-- A snapshot taken after the locks. An incoming version at or below the row's, or the tombstone's,
-- is not newer: skip, even what would have to wait. Indexes: primary keys, one look-up each an event. Where
-- the event replaces what its writer saw there is nothing to decide, and nothing is written. Where there is
-- neither row nor tombstone, one at or below the floor of forgotten deletes may be what a delete had
-- replaced: park. A snapshot may bring rows of version 0, which were there before set-up: where there is nothing.
update {stage} s
   set (current_version, buried_version, verdict, reason) = (
     select f.current_version, f.buried_version,
            case when s.verdict = 'superseded' then s.verdict
                 when s.version <= greatest(f.current_version, f.buried_version,
                                            case when s.op = 'r' then -1 else 0 end) then 'skip'
                 when f.too_old then 'park' else s.verdict end,
            case when f.too_old then 'too_old' else s.reason end
       from (select f.*, s.verdict = 'apply' and s.op in ('c', 'u')
                           and f.current_version is null and f.buried_version is null
                           and s.version <= (select l.version from replication.tombstone_floors l
                                              where l.table_name = %(table)s)
                           and not exists (select from {table} t where {same_key}) as too_old
               from (select (select t.replication_version from {table} t where {same_key}) as current_version,
                            (select b.version from replication.replication_tombstones b
                              where b.table_name = %(table)s
                                and b.record_key = replication.tombstone_key(s.record_key)) as buried_version) f) f)
 where s.verdict <> 'apply' or s.op = 'd' or s.version <= coalesce(s.base_version, 0)
    or coalesce((select t.replication_version from {table} t where {same_key}), 0)
       <> coalesce(s.base_version, 0)
    or (select b.version from replication.replication_tombstones b
         where b.table_name = %(table)s
           and b.record_key = replication.tombstone_key(s.record_key)) > coalesce(s.base_version, 0)
    or s.version <= (select l.version from replication.tombstone_floors l where l.table_name = %(table)s)

-- name: lock_parents
-- Locks: parent rows FOR KEY SHARE, as a foreign key's own trigger would. Index: the referenced key.
select count(*) from (
  select 1 from {parent} p
   where exists (select from {stage} s
                  where s.verdict = 'apply' and s.op <> 'd' and {parent_matches})
   order by {parent_columns}
   for key share of p) locked

-- name: park_orphans
-- A child whose parent is neither here nor about to come in this batch waits for it.
update {stage} s
   set verdict = 'park', reason = 'missing_parent', detail = {constraint_name}
 where s.verdict = 'apply' and s.op <> 'd' and {child_columns_set}
   and not exists (select from {parent} p where {parent_matches})
   {or_staged_parent}

-- name: park_moved
-- A referenced value that is not the key's changes: not under children that stay with the old one.
update {stage} s
   set verdict = 'park', reason = 'referenced', detail = {constraint_name}
  from {table} t
 where s.verdict = 'apply' and s.op <> 'd' and {same_key} and ({old_values}) is distinct from ({new_values})
   and coalesce(t.replication_version, 0) < s.version
   and exists (select from {child} c where {child_matches} {and_not_leaving})

-- name: park_blocked
-- An event whose values of a unique index another row has. A row with an event of its own in the batch
-- does not count: it goes, or is judged by park_rivals. `and_stays`: with `displace` only a row that is
-- newer, or has children. Index: the unique one.
update {stage} s
   set verdict = 'park', reason = 'unique_conflict', blocked_by = {table_name} || ' ' || {key_text},
       detail = {unique_name}{or_children_detail}
  from {table} t
 where s.verdict = 'apply' and s.op <> 'd' and {same_values} and not ({same_key})
   and not exists (select from {stage} g where g.verdict = 'apply' and {same_key_of_g})
   {and_stays}

-- name: park_rivals
-- Of the events of a batch with the same values one goes on: that of the row which has them already, else
-- the first; with `displace` the newest, but for a row that has children.
update {stage} s
   set verdict = 'park', reason = 'unique_conflict', detail = {unique_name},
       blocked_by = {table_name} || ' ' || w.owner
  from (select s.seq, row_number() over w as place, first_value(s.record_key) over w as owner
          from {stage} s left join {table} t on {same_key}
         where s.verdict = 'apply' and s.op <> 'd' and {values_set}
        window w as (partition by {staged_values} order by {rank})) w
 where w.seq = s.seq and w.place > 1

-- name: lock_displaced
-- Locks: rows that are to give way, so that no child can come to them.
select count(*) from (
  select 1 from {table} t join {stage} s on {same_values}
   where s.verdict = 'apply' and s.op <> 'd' and not ({same_key})
     and not exists (select from {stage} g where g.verdict = 'apply' and {same_key_of_g})
   order by {target_keys} for update of t) locked

-- name: displace
-- An older row with the same values leaves the table and waits as an event with its own version. Nobody
-- deleted it, so there is no tombstone; its version is kept for local inserts that come under its key. One that
-- has children by now stays; the write fails then, and is decided again. Index: the unique one.
with gone as (
  delete from {table} t using {stage} s
   where s.verdict = 'apply' and s.op <> 'd' and {same_values} and not ({same_key})
     and coalesce(t.replication_version, 0) < s.version and not ({has_children})
     and not exists (select from {stage} g where g.verdict = 'apply' and {same_key_of_g})
  returning {key_text} as record_key, greatest(t.replication_version, 1) as version, s.record_key as owner,
            (select row_to_json(r.*) from (select {row_text}) r) as image
), told as (
  select *, gen_random_uuid() as event_id from gone
), floors as (
  insert into replication.displaced_keys as d (table_name, record_key, version)
  select %(table)s, replication.tombstone_key(record_key), version from gone order by 2
  on conflict (table_name, record_key) do update
     set version = greatest(d.version, excluded.version), displaced_at = excluded.displaced_at
)
insert into replication.parked_events as p
  (topic, partition, kafka_offset, event_id, table_name, record_key, version, reason, detail, blocked_by,
   event)
select %(topic)s, -1, hashtextextended(record_key, version), event_id, %(table)s, record_key, version,
       'displaced', {unique_name}, {table_name} || ' ' || owner,
       convert_to(json_build_object('before', null, 'after', image, 'source', json_build_object(
         'connector', 'replication_pipeline', 'name', %(contour)s::text, 'contour', %(contour)s::text,
         'schema', {schema}, 'table', {relation_name}, 'event_id', event_id,
         'row_version', version::text, 'base_version', null), 'op', 'r')::text, 'UTF8')
  from told
on conflict (topic, partition, kafka_offset) do nothing

-- name: step_down
-- With `displace`: a row whose newer image is kept out leaves with its old one, as it has where the image was
-- there first. Not one that has children, nor one with values that the image lacks. A local insert of the key comes
-- after that image, which made the row go.
with gone as (
  delete from {table} t using {stage} s
   where s.verdict = 'park' and s.reason = 'unique_conflict' and s.op <> 'd' and s.missing_columns is null
     and {same_key} and coalesce(t.replication_version, 0) < s.version and not ({has_children})
  returning s.record_key, s.version
)
insert into replication.displaced_keys as d (table_name, record_key, version)
select %(table)s, replication.tombstone_key(record_key), version from gone order by 2
on conflict (table_name, record_key) do update
   set version = greatest(d.version, excluded.version), displaced_at = excluded.displaced_at

-- name: leave_early
-- Deletes come after the upserts; but a row without children whose values an upsert takes goes before.
delete from {table} t using {stage} s
 where s.verdict = 'apply' and s.op = 'd' and {same_key} and coalesce(t.replication_version, 0) < s.version
   and case when ({target_values}) in (select {staged_values_of_g} from {stage} g
                                        where g.verdict = 'apply' and g.op <> 'd') then not ({has_children}) end

-- name: change_hands
-- A row that gets other values while an upsert takes its old ones (a swap) is inserted anew. Locked before.
delete from {table} t using {stage} s
 where s.verdict = 'apply' and s.op <> 'd' and s.missing_columns is null and {same_key}
   and coalesce(t.replication_version, 0) < s.version and ({values_differ})
   and case when ({target_values}) in (select {staged_values_of_g} from {stage} g
                                        where g.verdict = 'apply' and g.op <> 'd') then true end

-- name: record_conflicts
-- Each event against what stands before it: the row, its tombstone, or an earlier event of the batch. The
-- lower version loses. That is a conflict when neither writer had seen the other:
--   * the incoming one wins, and its base is older than what it replaces;
--   * the incoming one loses. Kafka keeps the order of a key, so who had seen it would have come behind it.
--     Of an event that was parked meanwhile, only this contour itself is sure not to have seen it.
-- No conflict: writes of one contour, two deletes, and an insert above a delete, which uses the key anew.
-- A write loses once in a contour (index replication_conflicts_loser), so repeats add nothing. The rival
-- within the batch is found by a full join, which the planner can't turn into a loop over the batch for each
-- conflict, as it would by its guess that there is one; its image is made only where it is told.
with judged as (
  select s.*, greatest(s.current_version, s.buried_version, s.staged_version) as standing
    from {stage} s where s.verdict in ('apply', 'skip', 'superseded') and s.op <> 'r'
), concurrent as (
  select j.*, j.version > j.standing as wins, j.op = 'd' as deletes,
         case when j.base_version is null then 'insert' else 'update' end as kind,
         j.standing is not distinct from j.current_version as stands_here,
         j.standing is not distinct from j.buried_version as stands_deleted,
         case when j.standing is distinct from j.current_version
               and j.standing is distinct from j.buried_version then j.standing end as rival
    from judged j
   where j.standing > coalesce(j.base_version, 0) and j.standing <> j.version
     and j.standing >> 10 > 0 and j.standing & 1023 <> j.version & 1023
     and (j.version > j.standing
          or j.reason is null and (not %(again)s or j.standing & 1023 = %(contour_id)s))
), told as (
  select s.*, case when s.deletes then 'delete' else s.kind end as incoming_kind,
         case when s.stands_deleted or b.op = 'd' then 'delete' else s.kind end as standing_kind,
         case when s.deletes then null else {staged_image} end as incoming_row,
         case when s.stands_here then (
                select (select row_to_json(c.*) from (select {target_image}) c) from {table} t
                 where {same_key})
              when b.op <> 'd' then (select {staged_image} from {stage} s where s.ctid = b.place)
         end as standing_row
    from concurrent s
    full join (select s.record_key, s.version, s.op, s.ctid as place from {stage} s) b
           on b.record_key = s.record_key and b.version = s.rival
   where coalesce(s.op, '') <> ''
), decided as (
  select *, case when wins then standing_kind else incoming_kind end as loser,
         case when wins then incoming_kind else standing_kind end as winner
    from told
), found as (
  insert into replication.replication_conflicts
    (table_name, record_key, event_id, incoming_contour, incoming_version, incoming_base,
     current_version, winner, reason, incoming_row, current_row)
  select %(table)s, record_key, event_id, contour, version, base_version, standing,
         case when wins then 'incoming' else 'current' end, loser || '_' || winner,
         incoming_row, standing_row
    from decided
   where loser <> 'delete' or winner = 'update'
  on conflict do nothing
  returning 1
)
select count(*) from found

-- name: make_way
-- A GENERATED ALWAYS identity column takes a value from an INSERT alone. A row that gets another
-- number (SET … = DEFAULT, or deleted and inserted again) is therefore inserted anew. Locked before.
delete from {table} t using {stage} s
 where s.verdict = 'apply' and s.op <> 'd' and s.missing_columns is null and {same_key}
   and coalesce(t.replication_version, 0) < s.version and ({numbers_differ})

-- name: upsert
-- The whole row, or the columns that the event has. The guard matters when a local insert of the key
-- commits while this statement waits for it.
insert into {table} as t ({columns}, replication_version) overriding system value
select {staged_columns}, s.version from {stage} s
 where s.verdict = 'apply' and s.op <> 'd'
   and s.missing_columns is not distinct from %(missing)s::text[]
 order by {staged_keys}
on conflict ({keys}) do update
   set {assignments} replication_version = excluded.replication_version
 where coalesce(t.replication_version, 0) < excluded.replication_version

-- name: insert_new
-- The same at half the price, for a large batch none of whose rows was there to be locked. It fails
-- where a local insert of a key has come meanwhile; then upsert takes its place.
insert into {table} as t ({columns}, replication_version) overriding system value
select {staged_columns}, s.version from {stage} s
 where s.verdict = 'apply' and s.op <> 'd' and s.missing_columns is null
 order by {staged_keys}

-- name: column_sets
-- Events of a contour whose table has fewer columns; normally none.
select distinct missing_columns from {stage}
 where verdict = 'apply' and op <> 'd' and missing_columns is not null

-- name: sweep_resurrected
-- A row that was inserted and deleted here between `decide` and `upsert` has a tombstone that
-- `decide` could not see. Whoever deleted it has committed, or `upsert` would still wait. Index: the
-- tombstones' primary key, one look-up an event; as a join it would be one pass of the stage a tombstone.
delete from {table} t using {stage} s
 where s.verdict = 'apply' and s.op <> 'd' and {same_key}
   and coalesce(t.replication_version, 0) <= (
       select b.version from replication.replication_tombstones b
        where b.table_name = %(table)s and b.record_key = replication.tombstone_key(s.record_key))

-- name: park_referenced
-- A parent that still has children waits until they are gone. The parent row is locked, so no new
-- child can come meanwhile.
update {stage} s
   set verdict = 'park', reason = 'referenced', detail = {constraint_name}
  from {table} t
 where s.verdict = 'apply' and s.op = 'd' and {same_key}
   and exists (select from {child} c where {child_matches} {and_not_leaving})

-- name: bury
-- The tombstone comes first; a local insert that waits for the row finds it. `unsettled`: the row
-- is not to be seen, so a local insert may be on its way that does not see the tombstone either.
insert into replication.replication_tombstones as b
  (table_name, record_key, long_key, version, unsettled)
select %(table)s, k.record_key, nullif(s.record_key, k.record_key), s.version, s.current_version is null
  from {stage} s cross join lateral (select replication.tombstone_key(s.record_key) as record_key) k
 where s.verdict = 'apply' and s.op = 'd' order by k.record_key
on conflict (table_name, record_key) do update
   set version = excluded.version, deleted_at = clock_timestamp(), unsettled = excluded.unsettled,
       settle_horizon = null
 where b.version < excluded.version

-- name: delete_rows
-- Index: primary key.
delete from {table} t using {stage} s
 where s.verdict = 'apply' and s.op = 'd' and {same_key} and coalesce(t.replication_version, 0) < s.version

-- name: park_staged
-- The parked ones with their place in Kafka, taken from the batch by position.
insert into replication.parked_events as p
  (topic, partition, kafka_offset, event_id, table_name, record_key, version, reason, detail, blocked_by,
   event)
select m.topic, m.partition, m.kafka_offset, s.event_id, %(table)s, s.record_key, s.version, s.reason,
       s.detail, s.blocked_by, m.event
  from {stage} s
  join unnest(%(seqs)s::bigint[], %(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[],
              %(events)s::bytea[]) as m(seq, topic, partition, kafka_offset, event) on m.seq = s.seq
 where s.verdict = 'park'
on conflict (topic, partition, kafka_offset) do update
   set reason = case when (p.reason, excluded.reason) = ('displaced', 'unique_conflict') then p.reason
                     else excluded.reason end,
       detail = excluded.detail, blocked_by = excluded.blocked_by,
       attempts = p.attempts + 1, retried_at = clock_timestamp()
returning p.id, p.reason

-- name: park_whole
-- Events that got no row of a stage: no events at all, of an origin that can't be, not signed; and those of
-- tables that are configured and not set up here. Key and signature are kept of those that may be verified again.
insert into replication.parked_events as p
  (topic, partition, kafka_offset, table_name, reason, detail, event, message_key, signature)
select m.topic, m.partition, m.kafka_offset, m.table_name, m.reason, m.detail, m.event, m.message_key, m.signature
  from unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(tables)s::text[],
              %(reasons)s::text[], %(details)s::text[], %(events)s::bytea[], %(keys)s::bytea[],
              %(signatures)s::bytea[])
    as m(topic, partition, kafka_offset, table_name, reason, detail, event, message_key, signature)
on conflict (topic, partition, kafka_offset) do update
   set reason = excluded.reason, detail = excluded.detail, blocked_by = null,
       attempts = p.attempts + 1, retried_at = clock_timestamp()
returning p.id, p.reason

-- name: parked_seqs
select seq, reason from {stage} where verdict = 'park' order by seq

-- name: count_verdicts
select count(*) filter (where verdict = 'apply'), count(*) filter (where verdict = 'skip'),
       count(*) filter (where verdict = 'park') from {stage}

-- name: claim_parked
-- Lock: the parked rows, FOR UPDATE SKIP LOCKED, so that several appliers share them. Least recently
-- tried first, so that no event keeps the others from their turn. ``among``: of these only, if given.
select id, topic, partition, kafka_offset, event, reason = 'bad_signature', message_key, signature
  from replication.parked_events
 where table_name = any(%(tables)s::text[]) and reason <> 'malformed'
   and (%(among)s::bigint[] is null or id = any(%(among)s::bigint[]))
   and (%(eagerly)s and reason in ('missing_parent', 'referenced', 'unique_conflict', 'displaced')
        or retried_at < clock_timestamp() - least(attempts * interval '1 second', interval '1 minute'))
 order by retried_at limit %(limit)s for update skip locked

-- name: anything_parked
select exists (select from replication.parked_events)

-- name: remove_parked
delete from replication.parked_events where id = any(%(ids)s::bigint[])

-- name: unsettled_tables
-- Index: replication_tombstones_unsettled.
select distinct table_name from replication.replication_tombstones where unsettled

-- name: mark_settle_horizon
-- The first write of a later transaction than the delete's, so its number is drawn after its snapshot.
-- Whoever has a greater number sees the tombstone; who has a lower one may have missed it.
-- (Not pg_snapshot_xmax: transactions that run already may have numbers above that.)
update replication.replication_tombstones
   set settle_horizon = pg_current_xact_id()
 where ctid = any(array(
   select ctid from replication.replication_tombstones
    where table_name = %(table)s and unsettled and settle_horizon is null
      for update skip locked))

-- name: settle
-- All those transactions are over: a row at or below its tombstone came in unseen, and goes.
-- Index: replication_tombstones_unsettled, then the primary key of the table. Locks: tombstones that
-- nobody else holds; those of a writer in the middle of a delete can wait for the next time, and so
-- does a row that has children.
with ripe as (
  update replication.replication_tombstones b set unsettled = false, settle_horizon = null
   where b.ctid = any(array(
     select ctid from replication.replication_tombstones
      where table_name = %(table)s and unsettled
        and settle_horizon < pg_snapshot_xmin(pg_current_snapshot())
        for update skip locked))
     {and_not_referenced}
  returning coalesce(b.long_key, b.record_key) as record_key, b.version
)
delete from {table} t using ripe b, jsonb_to_record(b.record_key::jsonb) as r({key_definitions})
 where {ripe_key} and coalesce(t.replication_version, 0) <= b.version

-- name: count_applied
-- The worker's own row; no one else writes it.
insert into replication.workers as w
  (instance, role, batches, processed, failed, applied, skipped, conflicts, bytes, last_success_at)
values (%(instance)s, 'applier', %(batches)s, %(processed)s, %(failed)s, %(applied)s, %(skipped)s,
        %(conflicts)s, %(bytes)s, case when %(processed)s > 0 then clock_timestamp() end)
on conflict (instance) do update
   set heartbeat_at = clock_timestamp(), stopped_at = null,
       batches = w.batches + excluded.batches, processed = w.processed + excluded.processed,
       failed = w.failed + excluded.failed, applied = w.applied + excluded.applied,
       skipped = w.skipped + excluded.skipped, conflicts = w.conflicts + excluded.conflicts,
       bytes = w.bytes + excluded.bytes,
       last_success_at = coalesce(excluded.last_success_at, w.last_success_at)
