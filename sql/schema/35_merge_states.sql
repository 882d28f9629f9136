-- Rules beyond Last-Write-Wins of whole rows, for tables set up with merge => 'columns': each column is a
-- Last-Write-Wins register of its own, and a delta column is a counter that all contours add to.
--
-- What is known of a row is one JSON object, its *state*; this file merges states, and knows no tables:
--   version   of the row: the newest write of any of its columns
--   versions  by column: the version of the write that its value is from; absent: 0, older than any
--   totals    by delta column: {"<life>.<contour>": [total, version]}. A life begins with an INSERT and is
--             named by its version. Each contour adds to a total of its own, whose newest version counts.
--             The column's value is the sum over all
--   deleted   the newest version of a delete
--   row       the image, in the forms of events
-- A row lives if version > deleted. Merging takes the newest of each part, so it is commutative, associative
-- and idempotent: events may come in any order, repeated, and in batches. What a dead row was is kept, because
-- a newer update that did not know of the delete brings it back, and must bring back the same everywhere.
-- Lives at or below `deleted` are over, but for the newest if there is no other: a row that is inserted anew
-- counts anew, and one that comes back has what its newest life had.
--
-- Versions and totals are strings in JSON, which readers other than PostgreSQL would round as numbers.

-- What there is beyond the row itself. `image` is that of a dead row, and `version` the one it had; of a living
-- row it is null. A row without an entry, or above that of a dead one, is as its INSERT made it: all columns
-- have its version. `bases` are the versions that the newest write here replaced, by column.
create table if not exists replication.merge_states (
  table_name text not null,
  record_key text not null,
  long_key   text,
  versions   jsonb not null,
  totals     jsonb not null,
  bases      jsonb,
  deleted    bigint,
  version    bigint not null,
  image      jsonb,
  primary key (table_name, record_key)
);
alter table replication.replicated_tables
  add column if not exists merge text not null default 'row' check (merge in ('row', 'columns')),
  add column if not exists delta_columns text[] not null default '{}';
alter table replication.replication_queue add column if not exists merge jsonb;
alter table replication.replication_conflicts
  drop constraint if exists replication_conflicts_reason_check,
  add constraint replication_conflicts_reason_check check (reason in ('update_update', 'update_delete',
    'delete_update', 'insert_insert', 'insert_delete', 'same_column'));

-- The state of a row as an INSERT of `version` made it.
create or replace function replication.merge_fresh(image jsonb, version bigint, keys text[], deltas text[])
returns jsonb language sql immutable set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object(
    'version', version, 'row', image,
    'versions', coalesce((select jsonb_object_agg(c, version::text) from jsonb_object_keys(image) c
                           where c <> all(keys) and c <> all(deltas)), '{}'),
    'totals', coalesce((select jsonb_object_agg(
                          c, jsonb_build_object(version || '.' || (version & 1023),
                                                jsonb_build_array(image ->> c, version::text)))
                          from unnest(deltas) c), '{}'))
$$;

create or replace function replication.merge_sum(totals jsonb)
returns numeric language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce(sum((value ->> 0)::numeric), 0) from jsonb_each(totals)
$$;

-- Two states of one row as one.
create or replace function replication.merge_two(a jsonb, b jsonb)
returns jsonb language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  deleted constant bigint := greatest((a ->> 'deleted')::bigint, (b ->> 'deleted')::bigint);
  result jsonb;
  image jsonb;
  counters jsonb;
begin
  if a is null or a = '{}' then
    return b;
  elsif b is null or a = b then
    return a;
  end if;
  result := case when deleted is null then '{}' else jsonb_build_object('deleted', deleted) end;
  if not (a ? 'row' or b ? 'row') then
    return result;
  end if;
  -- Equal versions are of one write; only rows that were there before set-up may differ then.
  select jsonb_object_agg(coalesce(x.key, y.key),
                          case when y.key is null then x.value when x.key is null then y.value
                               when v.a > v.b or v.a = v.b and x.value > y.value then x.value
                               else y.value end)
    into image
    from jsonb_each(a -> 'row') x full join jsonb_each(b -> 'row') y on y.key = x.key
   cross join lateral (select coalesce((a -> 'versions' ->> x.key)::bigint, 0) as a,
                              coalesce((b -> 'versions' ->> y.key)::bigint, 0) as b) v;
  with parts as (
    select distinct on (c.key, p.key) c.key as name, p.key as part, p.value,
           split_part(p.key, '.', 1)::bigint as life
      from (values (a -> 'totals'), (b -> 'totals')) as s(totals), jsonb_each(s.totals) c, jsonb_each(c.value) p
     order by c.key, p.key, (p.value ->> 1)::bigint desc, (p.value ->> 0)::numeric desc
  )
  select coalesce(jsonb_object_agg(name, totals), '{}') into counters
    from (select name, jsonb_object_agg(part, value) as totals
            from (select *, max(life) over (partition by name) as newest from parts) l
           where life = newest or life > coalesce(deleted, 0)
           group by name) n;
  if counters <> '{}' then
    image := image || (
      select jsonb_object_agg(key, case jsonb_typeof(image -> key)
                                     when 'number' then to_jsonb(replication.merge_sum(value))
                                     else to_jsonb(replication.merge_sum(value)::text) end)
        from jsonb_each(counters) where image ? key);
  end if;
  return result || jsonb_build_object(
    'version', greatest((a ->> 'version')::bigint, (b ->> 'version')::bigint), 'row', image, 'totals', counters,
    'versions', (
      select coalesce(jsonb_object_agg(coalesce(x.key, y.key),
                                       greatest(x.value::bigint, y.value::bigint)::text), '{}')
        from jsonb_each_text(a -> 'versions') x full join jsonb_each_text(b -> 'versions') y on y.key = x.key));
end $$;

create or replace aggregate replication.merged(jsonb) (sfunc = replication.merge_two, stype = jsonb);

-- The state of a row of this database: its image and version, null if there is none; its entry; its tombstone.
create or replace function replication.merge_known(
  image jsonb, version bigint, entry replication.merge_states, buried bigint, keys text[], deltas text[])
returns jsonb language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when d.deleted is null then '{}' else jsonb_build_object('deleted', d.deleted) end
         || case when image is null and entry.image is null then '{}'
                 when image is not null and (entry.versions is null or entry.image is not null)
                   then replication.merge_fresh(image, version, keys, deltas)
                 else jsonb_build_object('version', coalesce(version, entry.version), 'versions', entry.versions,
                                         'totals', entry.totals, 'row', coalesce(image, entry.image)) end
    from (select greatest(entry.deleted, buried,
                          case when image is not null and entry.image is not null then entry.version end)
                   as deleted) d
$$;

-- The state that an event tells of. One that tells of none is an INSERT; or a write of the whole row, as where
-- its contour does not merge, and then the same as a delete and an INSERT.
create or replace function replication.merge_event(
  op text, version bigint, image jsonb, merge jsonb, keys text[], deltas text[])
returns jsonb language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when op = 'd' then jsonb_build_object('deleted', version)
              when merge ? 'versions' then jsonb_build_object(
                'version', version, 'versions', merge -> 'versions', 'totals', merge -> 'totals', 'row', image)
              else replication.merge_fresh(image, version, keys, deltas) end
         || case when op = 'd' then '{}'
                 when merge ? 'deleted' then jsonb_build_object('deleted', (merge ->> 'deleted')::bigint)
                 when op <> 'c' and merge is null then jsonb_build_object('deleted', version - 1)
                 else '{}' end
$$;

-- What a write of this contour does to the entry of its row; `image` and `version` are null for a DELETE. The
-- difference of a delta column is added to this contour's total; all other columns that differ get the version.
create or replace function replication.merge_write(
  of_table text, key text, keys text[], deltas text[], former jsonb, former_version bigint, image jsonb,
  version bigint)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  fresh constant jsonb := replication.merge_fresh(former, former_version, keys, deltas);
  short_key constant text := replication.tombstone_key(key);
  me constant text := (select id from replication.contour);
  entry replication.merge_states;
  written text[];
  name text;
  part text;
  added numeric;
begin
  insert into replication.merge_states as m
    (table_name, record_key, long_key, versions, totals, version, image)
  values (of_table, short_key, nullif(key, short_key), fresh -> 'versions', fresh -> 'totals', former_version,
          case when image is null then former end)
  on conflict (table_name, record_key) do update
     set versions = case when m.image is null then m.versions else excluded.versions end,
         totals = case when m.image is null then m.totals else excluded.totals end,
         deleted = case when m.image is null then m.deleted else greatest(m.deleted, m.version) end,
         version = excluded.version, image = excluded.image, bases = null
  returning * into entry;
  if image is null then
    return;
  end if;
  written := array(select c from jsonb_object_keys(image) c
                    where c <> all(keys) and c <> all(deltas) and image -> c is distinct from former -> c);
  entry.bases := (select jsonb_object_agg(c, coalesce(entry.versions ->> c, '0')) from unnest(written) c);
  entry.versions := entry.versions
    || coalesce((select jsonb_object_agg(c, version::text) from unnest(written) c), '{}');
  foreach name in array deltas loop
    added := coalesce((image ->> name)::numeric, 0) - replication.merge_sum(entry.totals -> name);
    continue when added = 0;
    select max(split_part(p, '.', 1)::bigint) || '.' || me into part from jsonb_object_keys(entry.totals -> name) p;
    entry.totals := jsonb_set(entry.totals, array[name, part], jsonb_build_array(
      (coalesce((entry.totals -> name -> part ->> 0)::numeric, 0) + added)::text, version::text));
  end loop;
  update replication.merge_states m
     set versions = entry.versions, totals = entry.totals, bases = entry.bases, version = merge_write.version
   where m.table_name = of_table and m.record_key = short_key;
end $$;
