-- Applying events of tables that merge columns (sql/schema/35_merge_states.sql). These statements stand in for
-- those of apply.sql that decide by the versions of rows; all others are the same. `{…}` are filled in by
-- postgres/merge_plan.py. Order, within that of apply.sql:
--
--   stage, lock_rows
--   fold               all events of a key, and what is known of it here, become one row
--   … foreign keys and unique indexes as for any table …
--   record_conflicts, upsert, sweep_resurrected, bury, delete_rows
--   keep_states        last, when all rows are locked that can be
--   park_folded

-- name: fold
-- A snapshot taken after the locks. The newest event of each key stands for the others, which are `folded` into
-- it; those that are parked already take no part. What comes out may have the row's own version: an older
-- event with a newer column. Indexes: primary keys, three look-ups a key.
with incoming as materialized (
  select s.seq, s.record_key collate "C" as record_key, s.version, s.event_id,
         replication.merge_event(s.op, s.version, e.event -> 'after', e.event -> 'source' -> 'merge',
                                 {keys}, {deltas}) as doc,
         e.event -> 'source' -> 'merge' -> 'bases' as bases,
         e.event -> 'source' -> 'merge' -> 'totals' as totals
    from {stage} s
    join jsonb_array_elements(%(events)s::jsonb) with ordinality e(event, seq) on e.seq = s.seq
   where s.verdict = 'apply'
), unfit as materialized (
  select seq from incoming
   where (select array_agg(c order by c) from jsonb_object_keys(totals) c) <> {sorted_deltas}
), theirs as (
  select record_key, replication.merged(doc order by seq) as doc,
         (array_agg(seq order by version desc, seq desc))[1] as seq
    from incoming where seq not in (select seq from unfit) group by record_key
), ours as (
  select h.seq, h.record_key, h.doc, s.op, b.version as buried_version, to_jsonb(m.*) as seen,
         case when {row_is_there} then coalesce(t.replication_version, 0) end as current_version,
         replication.merge_known(
           case when {row_is_there} then (select to_jsonb(r.*) from (select {row_text}) r) end,
           case when {row_is_there} then coalesce(t.replication_version, 0) end,
           m, b.version, {keys}, {deltas}) as known
    from theirs h
    join {stage} s on s.seq = h.seq
    left join {table} t on {same_key}
    left join replication.replication_tombstones b
      on b.table_name = %(table)s and b.record_key = replication.tombstone_key(h.record_key)
    left join replication.merge_states m
      on m.table_name = %(table)s and m.record_key = replication.tombstone_key(h.record_key)
), merged as materialized (
  select o.*, replication.merge_two(o.known, o.doc) as folded from ours o
), judged as materialized (
  select g.*, v.*,
         case when g.folded = g.known then 'skip'
              when v.lives and g.op <> 'r' and g.known -> 'row' is null and g.buried_version is null
                   and (g.folded ->> 'version')::bigint <= (select l.version from replication.tombstone_floors l
                                                            where l.table_name = %(table)s) then 'park'
              when v.lives then 'apply'
              when g.current_version is not null
                   or coalesce(g.buried_version, 0) < (g.folded ->> 'deleted')::bigint then 'apply'
              else 'skip' end as verdict
    from merged g
   cross join lateral (
     select coalesce((g.folded ->> 'version')::bigint
                     > coalesce((g.folded ->> 'deleted')::bigint, -1), false) as lives) v
), chosen as (
  update {stage} s
     set verdict = j.verdict,
         reason = case when j.verdict = 'park' then 'too_old' end,
         current_version = j.current_version, buried_version = j.buried_version,
         known = j.known, seen = j.seen,
         folded = case when j.folded = j.known or not j.folded ? 'row'
                         or j.lives and j.seen is null
                            and j.folded = replication.merge_fresh(j.folded -> 'row', (j.folded ->> 'version')::bigint,
                                                                   {keys}, {deltas})
                       then null else j.folded end,
         doc = i.doc, bases = i.bases, staged_version = s.version,
         version = case when j.lives then (j.folded ->> 'version')::bigint else (j.folded ->> 'deleted')::bigint end,
         op = case when j.lives then 'u' else 'd' end, told_op = s.op,
         missing_columns = case when j.lives and not j.folded -> 'row' ?& {column_names}
                                then array(select unnest({column_names})
                                           except select jsonb_object_keys(j.folded -> 'row') order by 1) end
         {assignments}
    from judged j join incoming i on i.seq = j.seq
    left join lateral jsonb_to_record(case when j.lives then j.folded -> 'row' end) as r({wire_definitions}) on true
   where s.seq = j.seq
), others as (
  update {stage} s
     set verdict = case when i.seq in (select seq from unfit) then 'park' else 'folded' end,
         reason = case when i.seq in (select seq from unfit) then 'unknown_column' end,
         detail = case when i.seq in (select seq from unfit) then 'delta_columns differ' else '' end,
         doc = i.doc, bases = i.bases, staged_version = s.version, told_op = s.op
    from incoming i
   where s.seq = i.seq and i.seq not in (select seq from theirs)
)
select count(*) from judged where verdict <> 'skip'

-- name: record_conflicts
-- Each event against what stands before it: the known state and the earlier events of the batch. The lower
-- version loses, which is a conflict when neither writer had seen the other, by the rules of apply.sql:
--   same_column    both wrote the column; what the event replaced (`bases`) is older than what stands. Only
--                  such columns are in the images
--   insert_insert  columns that are no counters differ, and stand here by a write that the one who inserted
--                  had not seen; those are in the images
--   update_delete, insert_delete, delete_update  as for any table, of the whole row
-- Different columns, and what is added to counters, are no conflict.
with leaders as (
  select record_key as leading_key, known, verdict as leading_verdict from {stage} where known is not null
), told as materialized (
  select s.seq, s.record_key, s.event_id, s.contour, s.staged_version as version, s.base_version as base,
         s.told_op as op, s.doc, s.bases, replication.merge_two(l.known, replication.merged(s.doc) over (
           partition by s.record_key collate "C" order by s.seq
           rows between unbounded preceding and 1 preceding)) as prior
    from {stage} s join leaders l on l.leading_key = s.record_key
   where s.doc is not null and s.told_op <> 'r' and l.leading_verdict <> 'park'
), judged as materialized (
  select t.*, coalesce((prior ->> 'version')::bigint, 0) as standing,
         coalesce((prior ->> 'deleted')::bigint, 0) as buried
    from told t
), clashes as (
  select j.*, c.standing as other, c.columns, 'same_column' as reason
    from judged j cross join lateral (
      select max((j.prior -> 'versions' ->> b.key)::bigint) as standing, array_agg(b.key) as columns
        from jsonb_each_text(j.bases) b
       where (j.prior -> 'versions' ->> b.key)::bigint > b.value::bigint
         and (j.prior -> 'versions' ->> b.key)::bigint & 1023 <> j.version & 1023
       group by (j.prior -> 'versions' ->> b.key)::bigint > j.version) c
   where j.op = 'u' and j.standing > j.buried and j.version > j.buried
  union all
  select j.*, c.standing, c.columns, 'insert_insert'
    from judged j cross join lateral (
      select max(v.value::bigint) as standing, array_agg(v.key) as columns
        from jsonb_each_text(j.prior -> 'versions') v
       where v.value::bigint > coalesce((j.doc ->> 'deleted')::bigint, 0) and v.value::bigint & 1023 <> j.version & 1023
         and j.doc -> 'row' -> v.key is distinct from j.prior -> 'row' -> v.key
       group by v.value::bigint > j.version) c
   where j.op = 'c' and j.standing > j.buried and j.version > j.buried
  union all
  select j.*, j.standing, null, case when j.version > j.standing then 'update_delete' else 'delete_update' end
    from judged j
   where j.op = 'd' and j.standing > j.buried and j.standing > coalesce(j.base, 0)
     and (j.version > j.standing
          or j.prior -> 'versions' <> replication.merge_fresh(j.prior -> 'row', j.standing, {keys}, {deltas}) -> 'versions')
  union all
  select j.*, j.buried, null,
         case when j.version > j.buried then 'delete_update'
              when j.op = 'c' then 'insert_delete' else 'update_delete' end
    from judged j
   where j.op <> 'd' and j.buried > coalesce(j.base, 0) and j.buried & 1023 <> 0
     and (j.version < j.buried or j.op = 'u' and j.standing <= j.buried)
), concurrent as (
  select c.*, c.version > c.other as wins from clashes c
   where c.other >> 10 > 0 and c.other & 1023 <> c.version & 1023
     and (c.version > c.other or not %(again)s or c.other & 1023 = %(contour_id)s)
), pictured as (
  select c.*, a.image as incoming_row, b.image as standing_row
    from concurrent c
   cross join lateral (select case when c.op <> 'd' then {image} end as image
                         from jsonb_to_record(c.doc -> 'row') as r({wire_definitions})) a
   cross join lateral (select case when c.standing > c.buried then {image} end as image
                         from jsonb_to_record(c.prior -> 'row') as r({wire_definitions})) b
), found as (
  insert into replication.replication_conflicts
    (table_name, record_key, event_id, incoming_contour, incoming_version, incoming_base,
     current_version, winner, reason, incoming_row, current_row)
  select %(table)s, record_key, event_id, contour, version, base, other,
         case when wins then 'incoming' else 'current' end, reason,
         case when columns is null then incoming_row
              else (select jsonb_object_agg(key, value) from jsonb_each(incoming_row) where key = any(columns)) end,
         case when columns is null then standing_row
              else (select jsonb_object_agg(key, value) from jsonb_each(standing_row) where key = any(columns)) end
    from pictured
  on conflict do nothing
  returning 1
)
select count(*) from found

-- name: upsert
-- As that of apply.sql, but where the row is not as `fold` saw it nothing is written: the caller counts.
insert into {table} as t ({columns}, replication_version) overriding system value
select {staged_columns}, s.version from {stage} s
 where s.verdict = 'apply' and s.op <> 'd'
   and s.missing_columns is not distinct from %(missing)s::text[]
 order by {staged_keys}
on conflict ({keys}) do update
   set {assignments} replication_version = excluded.replication_version
 where exists (select from {stage} s where s.verdict = 'apply' and {same_key}
                  and s.current_version = coalesce(t.replication_version, 0))

-- name: to_write
select count(*) from {stage} where verdict = 'apply' and op <> 'd'

-- name: keep_states
-- Returns how many entries were not as `fold` saw them: a local writer came between, and all is decided again.
-- Locks: the entries, in key order; their rows are locked, or there are none. Index: the primary key.
with wanted as (
  select k.record_key, nullif(s.record_key, k.record_key) as long_key, s.folded, s.seen, s.op
    from {stage} s cross join lateral (select replication.tombstone_key(s.record_key) as record_key) k
   where s.folded is not null and s.verdict in ('apply', 'skip')
   order by k.record_key
), kept as (
  insert into replication.merge_states as m
    (table_name, record_key, long_key, versions, totals, deleted, version, image)
  select %(table)s, record_key, long_key, folded -> 'versions', folded -> 'totals',
         (folded ->> 'deleted')::bigint, (folded ->> 'version')::bigint,
         case when op = 'd' then folded -> 'row' end
    from wanted
  on conflict (table_name, record_key) do update
     set versions = excluded.versions, totals = excluded.totals, bases = null, deleted = excluded.deleted,
         version = excluded.version, image = excluded.image
   where to_jsonb(m.*) = (select w.seen from wanted w where w.record_key = m.record_key)
  returning 1
)
select (select count(*) from wanted) - (select count(*) from kept)

-- name: park_folded
-- Events go where the one goes that stands for them.
update {stage} s set verdict = 'park', reason = l.reason, detail = l.detail, blocked_by = l.blocked_by
  from {stage} l
 where l.known is not null and l.verdict = 'park' and s.verdict = 'folded' and s.record_key = l.record_key

-- name: count_folded
select count(*) from {stage} where verdict = 'folded'

-- name: settle
-- That of apply.sql; what goes is kept as the image of a dead row.
with ripe as (
  update replication.replication_tombstones b set unsettled = false, settle_horizon = null
   where b.ctid = any(array(
     select ctid from replication.replication_tombstones
      where table_name = %(table)s and unsettled
        and settle_horizon < pg_snapshot_xmin(pg_current_snapshot())
        for update skip locked))
     {and_not_referenced}
  returning coalesce(b.long_key, b.record_key) as record_key, b.version
), gone as (
  delete from {table} t using ripe b, jsonb_to_record(b.record_key::jsonb) as r({key_definitions})
   where {ripe_key} and coalesce(t.replication_version, 0) <= b.version
  returning b.record_key, coalesce(t.replication_version, 0) as version,
            (select to_jsonb(r.*) from (select {row_text}) r) as image
)
insert into replication.merge_states as m (table_name, record_key, long_key, versions, totals, version, image)
select %(table)s, k.record_key, nullif(g.record_key, k.record_key), f.state -> 'versions', f.state -> 'totals',
       g.version, g.image
  from gone g
 cross join lateral (select replication.tombstone_key(g.record_key) as record_key) k
 cross join lateral (select replication.merge_fresh(g.image, g.version, {keys}, {deltas}) as state) f
on conflict (table_name, record_key) do update
   set versions = case when m.image is null then m.versions else excluded.versions end,
       totals = case when m.image is null then m.totals else excluded.totals end,
       deleted = case when m.image is null then m.deleted else greatest(m.deleted, m.version) end,
       version = excluded.version, image = excluded.image
