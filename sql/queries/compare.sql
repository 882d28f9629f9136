-- Comparing one table between contours. Reads only. {table}, {key} and {content} are filled in with
-- identifiers of the table; hashes are PostgreSQL's own, which are the same in all supported versions.

-- name: shape
-- The columns that travel; whoever leaves one out does not compare it.
select n.nspname, c.relname, r.key_columns,
       (select array_agg(a.attname::text order by a.attname)
          from pg_catalog.pg_attribute a
         where a.attrelid = r.relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
           and a.attname <> 'replication_version'
           and (r.include is null or a.attname = any(r.include) or a.attname = any(r.key_columns))
           and not coalesce(a.attname = any(r.exclude), false))
  from replication.replicated_tables r
  join pg_catalog.pg_class c on c.oid = r.relation
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where r.table_name = %(table)s

-- name: blocks
-- One scan of the table; some 20 bytes for each block come back.
select block, count(*), bit_xor(evidence)
  from (select hashtextextended({key}, 0) & %(mask)s as block,
               hashtextextended(concat_ws(' ', {key}, t.replication_version, {content}), 1) as evidence
          from {table} t) r
 group by block

-- name: rows
-- The rows of some blocks, again by a scan.
select hashtextextended({key}, 2), t.replication_version,
       hashtextextended({content}, 1)
  from {table} t where hashtextextended({key}, 0) & %(mask)s = any(%(blocks)s::bigint[])

-- name: positions
select partition, next_offset from replication.consumer_offsets where topic = %(topic)s
