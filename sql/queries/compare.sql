-- Comparing one table between contours. Reads only, each statement in a snapshot of its own, which is short:
-- a long one would keep vacuum from the queue. `{…}` are pieces of SQL about the table, made by
-- postgres/compare_side.py; %(…)s are parameters. Evidence is a hash of the text of version and columns, which
-- is the same in all supported versions; md5 costs half as much again, and types' own hashes call 1.0 and 1.00 equal.

-- name: shape
-- The key with its types and how their values are ordered here; the columns that travel (whoever leaves one out
-- does not compare it); an estimate of rows, and pages.
select n.nspname, c.relname, r.table_id, k.columns, k.types, k.orders, w.key_expression, d.columns,
       s.estimated, s.pages, cardinality(r.delta_columns) > 0
  from replication.replicated_tables r
  join pg_catalog.pg_class c on c.oid = r.relation
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 cross join lateral replication.whole_row(r.table_id) w
 cross join lateral (
   select array_agg(a.attname::text order by p.position) as columns,
          array_agg(format_type(a.atttypid, a.atttypmod) order by p.position) as types,
          array_agg(concat_ws(' ', y.typcategory,
            (select string_agg(e.enumlabel, ',' order by e.enumsortorder) from pg_catalog.pg_enum e where e.enumtypid = y.oid),
            -- Columns of pg_database and pg_collation have other names in newer servers.
            case when o.oid is not null then replace(coalesce(
              case when o.collprovider <> 'd' then coalesce(to_jsonb(o) ->> 'colllocale', to_jsonb(o) ->> 'colliculocale', o.collcollate)
                   else coalesce(to_jsonb(b) ->> 'datlocale', to_jsonb(b) ->> 'daticulocale', b.datcollate) end, ''),
              'POSIX', 'C') end,
            case when o.collprovider <> 'd' then pg_collation_actual_version(o.oid)
                 when o.oid is not null then pg_database_collation_actual_version(b.oid) end)
            order by p.position) as orders
     from unnest(r.key_columns) with ordinality p(name, position)
     join pg_catalog.pg_attribute a on a.attrelid = r.relation and a.attname = p.name
     join pg_catalog.pg_type y on y.oid = replication.base_type(a.atttypid)
     join pg_catalog.pg_database b on b.datname = current_database()
     left join pg_catalog.pg_collation o on o.oid = a.attcollation) k
 cross join lateral (
   select array_agg(a.attname::text order by a.attname collate "C") as columns
     from pg_catalog.pg_attribute a
    where a.attrelid = r.relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
      and a.attname <> 'replication_version'
      and (r.include is null or a.attname = any(r.include) or a.attname = any(r.key_columns))
      and not coalesce(a.attname = any(r.exclude), false)) d
 cross join lateral (
   select coalesce(sum(l.reltuples) filter (where l.reltuples > 0), 0)::bigint as estimated,
          coalesce(sum(pg_relation_size(l.oid)), 0)::bigint / current_setting('block_size')::bigint as pages
     from (select r.relation::oid as oid union select relid from pg_partition_tree(r.relation)) o
     join pg_catalog.pg_class l on l.oid = o.oid and l.relkind = 'r') s
 where r.table_name = %(table)s

-- name: sampled
-- Keys that cut the table into about so many blocks of one size, from some of its pages.
select {texts_of_s}
  from (select s.*, row_number() over (order by {aliases}) as n, count(*) over () as rows
          from (select {named_keys} from {table} t tablesample system (%(percent)s) repeatable (0)) s) s
 where mod(n, greatest(rows / %(blocks)s, 1)) = 0 order by n

-- name: cuts
-- Each so many rows of a range a key. Index: the primary key.
select {texts_of_s}
  from (select s.*, row_number() over (order by {aliases}) as n
          from (select {named_keys} from {table} t where {range}) s) s
 where mod(n, %(step)s) = 0 order by n

-- name: block
-- Rows and evidence of a range of keys. Index: the primary key.
select count(*), coalesce(bit_xor({evidence}), 0) from {table} t where {range}

-- name: rows
-- The rows of a small range. Index: the primary key.
select {key_text}, array[{key_texts}], coalesce(t.replication_version, 0), {content} from {table} t where {range}

-- name: hashed_blocks
-- Where the contours order keys differently: blocks of hashes of keys, by one scan.
select {key_hash} & %(mask)s as block, count(*), bit_xor({evidence}) from {table} t where {range} group by block

-- name: hashed_rows
-- The rows of some such blocks, by a scan for all of them.
select {key_text}, array[{key_texts}], coalesce(t.replication_version, 0), {content} from {table} t
 where {range} and {key_hash} & %(mask)s = any(%(blocks)s::bigint[])

-- name: states
-- What there is of some keys, deleted ones included; a tombstone of version 1 is a placeholder. Indexes: primary keys.
select t.{first_key} is not null, coalesce(t.replication_version, 0),
       case when t.{first_key} is not null then {content} end, nullif(b.version, 1)
  from unnest(%(keys)s::text[], {key_arrays}) with ordinality as w(key, {aliases}, n)
  left join {table} t on {same_key}
  left join replication.replication_tombstones b
    on b.table_name = %(table)s and b.record_key = replication.tombstone_key(w.key)
 order by w.n

-- name: columns
-- A hash of each column of some keys. Index: the primary key.
select w.n, array[{column_hashes}]::text[]
  from unnest(%(keys)s::text[], {key_arrays}) with ordinality as w(key, {aliases}, n)
  join {table} t on {same_key}

-- name: values
select w.n, array[{column_texts}]::text[]
  from unnest(%(keys)s::text[], {key_arrays}) with ordinality as w(key, {aliases}, n)
  join {table} t on {same_key}

-- name: explain
explain select from {table} t where {range}

-- name: may_repair
-- Whether this role may; asked before anything is sent.
select has_function_privilege('replication.resend_rows(integer, oid[], tid[], bigint[])', 'execute')
       and has_table_privilege(r.relation, 'update') and has_table_privilege(r.relation, 'delete'), current_user
  from replication.replicated_tables r where r.table_name = %(table)s

-- name: lock
-- Of some keys, where their rows lie. Lock: the rows. A row that is being written is left out: whoever waits for
-- one while holding others may cost a user's transaction its life. Index: the primary key.
select w.n, t.tableoid::bigint, t.ctid::text, coalesce(t.replication_version, 0)
  from unnest(%(keys)s::text[], {key_arrays}) with ordinality as w(key, {aliases}, n)
  join {table} t on {same_key}
   for no key update of t skip locked

-- name: lock_one
-- The same of one key, which is waited for, as nothing else is held. Lock: the row. Index: the primary key.
select w.n, t.tableoid::bigint, t.ctid::text, coalesce(t.replication_version, 0)
  from unnest(%(keys)s::text[], {key_arrays}) with ordinality as w(key, {aliases}, n)
  join {table} t on {same_key}
   for no key update of t

-- name: resend
select replication.resend_rows(%(table_id)s, %(leaves)s::bigint[]::oid[], %(places)s::text[]::tid[], %(above)s::bigint[])

-- name: share_table
-- Lock: waits for those who write the table, and keeps writers out for the moment that it takes to look.
lock table {table} in share mode

-- name: resend_deletes
select unnest(replication.resend_deletes(%(table_id)s, %(keys)s::text[], %(versions)s::bigint[]))

-- name: delete
-- As an application would. Index: the primary key.
delete from {table} t
 using unnest(%(keys)s::text[], {key_arrays}) with ordinality as w(key, {aliases}, n)
 where {same_key} and coalesce(t.replication_version, 0) = %(version)s

-- name: parked
-- Whether an event of these keys waits here. Index: parked_events_table.
select record_key, reason from replication.parked_events
 where table_name = %(table)s and record_key = any(%(keys)s::text[])

-- name: positions
select partition, next_offset from replication.consumer_offsets where topic = %(topic)s
