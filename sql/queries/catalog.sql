-- What apply needs to know of the tables of this database. Plain catalog reads.

-- name: tables
select r.table_name, r.relation::oid::bigint, n.nspname, c.relname, r.key_columns, r.table_id,
       replication.table_fingerprint(r.relation), r.displace, w.key_expression, w.projection,
       r.merge, r.delta_columns
  from replication.replicated_tables r
  join pg_catalog.pg_class c on c.oid = r.relation
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 cross join lateral replication.whole_row(r.table_id) w
 where r.table_name = any(%(tables)s::text[])

-- name: columns
-- The base type decides the wire form, and stands in for a domain until the row is written: a delete
-- has only the key, which a NOT NULL domain elsewhere in the row must not refuse. Of an array, what stands
-- between its elements.
select a.attname,
       case when t.typtype = 'd'
                 then pg_catalog.format_type(replication.base_type(a.atttypid), -1)  -- any length
            else pg_catalog.format_type(a.atttypid, a.atttypmod) end,
       replication.base_type(a.atttypid)::regtype::text, a.attidentity = 'a',
       (select e.typdelim::text from pg_catalog.pg_type b join pg_catalog.pg_type e on e.oid = b.typelem
         where b.oid = replication.base_type(a.atttypid)
           and b.typsubscript = 'pg_catalog.array_subscript_handler'::regproc)
  from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
 where a.attrelid = %(relation)s::oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
   and a.attname <> 'replication_version'
 order by a.attnum

-- name: unique_keys
-- Unique indexes beside the primary key, as far as a row's own columns decide: no partial ones, none of
-- expressions, generated columns or other collations. Those are noticed when a write fails.
select i.indrelid::oid::bigint, c.relname,
       (select array_agg(a.attname::text order by u.position)
          from unnest(i.indkey) with ordinality u(attnum, position)
          join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.attnum
         where u.position <= i.indnkeyatts)
  from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
 where i.indrelid = any(%(relations)s::oid[]) and i.indisunique and not i.indisprimary and i.indislive
   and i.indpred is null and i.indexprs is null
   and not exists (
     select from unnest(i.indkey, i.indcollation) with ordinality u(attnum, collated, position)
       join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.attnum
      where u.position <= i.indnkeyatts
        and (a.attgenerated <> '' or a.attname = 'replication_version' or a.attcollation <> u.collated))
 order by c.relname

-- name: foreign_keys
-- Both directions: the keys of this table, and the keys that point at it.
select k.conname, k.conrelid::oid::bigint, cn.nspname, cc.relname,
       (select array_agg(a.attname::text order by u.position)
          from unnest(k.conkey) with ordinality u(attnum, position)
          join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum),
       k.confrelid::oid::bigint, pn.nspname, pc.relname,
       (select array_agg(a.attname::text order by u.position)
          from unnest(k.confkey) with ordinality u(attnum, position)
          join pg_catalog.pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum),
       k.confdeltype::text,
       (select array_agg(a.attname::text order by a.attnum)
          from pg_catalog.pg_attribute a
         where a.attrelid = k.conrelid and a.attnum = any(coalesce(k.confdelsetcols, k.conkey)))
  from pg_catalog.pg_constraint k
  join pg_catalog.pg_class cc on cc.oid = k.conrelid
  join pg_catalog.pg_namespace cn on cn.oid = cc.relnamespace
  join pg_catalog.pg_class pc on pc.oid = k.confrelid
  join pg_catalog.pg_namespace pn on pn.oid = pc.relnamespace
 where k.contype = 'f' and k.conparentid = 0
   and (k.conrelid = any(%(relations)s::oid[]) or k.confrelid = any(%(relations)s::oid[]))
 order by k.conname
