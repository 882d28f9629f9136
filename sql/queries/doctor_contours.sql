-- What doctor asks about contours, here and in those that compare.contours reaches. Plain catalog reads.

-- name: standing
select trouble from replication.heartbeat_log

-- name: who
select name, id, incarnation::text, schema_version from replication.contour

-- name: database
-- Equal letters in any order are no matter; how they sort is.
select pg_encoding_to_char(d.encoding), d.datlocprovider::text, d.datcollate,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale')
  from pg_database d where d.datname = current_database()

-- name: set_ups
-- Each table as it is set up: its key, its options, and the columns that travel.
select r.table_name, r.relation::text, r.key_columns, r.displace, r.merge, r.delta_columns,
       coalesce((
         select json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                                          a.atthasdef or a.attidentity <> '') order by a.attnum)
           from pg_attribute a
          where a.attrelid = r.relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
            and a.attname <> 'replication_version'
            and (r.include is null or a.attname = any(r.include) or a.attname = any(r.key_columns))
            and not coalesce(a.attname = any(r.exclude), false)), '[]')
  from replication.replicated_tables r
 where r.table_name = any(%(tables)s::text[]) order by 1

-- name: sequences
-- Sequences that fill columns of unique indexes: of identity columns, and those that defaults name.
select r.table_name, a.attname, s.seqrelid::regclass::text, s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
       case when v.seen then pg_sequence_last_value(s.seqrelid) end, v.seen, n.nspname, c.relname
  from replication.replicated_tables r
  join pg_class c on c.oid = r.relation join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = r.relation and a.attnum > 0 and not a.attisdropped
                     and a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
  join (select p.refobjid as relation, p.refobjsubid as attnum, p.objid as sequence from pg_depend p
         where p.classid = 'pg_class'::regclass and p.refclassid = 'pg_class'::regclass and p.deptype = 'i'
         union
        select d.adrelid, d.adnum, p.refobjid
          from pg_attrdef d join pg_depend p on p.classid = 'pg_attrdef'::regclass and p.objid = d.oid
         where p.refclassid = 'pg_class'::regclass) u on u.relation = a.attrelid and u.attnum = a.attnum
  join pg_sequence s on s.seqrelid = u.sequence
 cross join lateral (select has_sequence_privilege(s.seqrelid, 'usage, select') as seen) v
 where r.table_name = any(%(tables)s::text[])
   and exists (select from pg_index i where i.indrelid = r.relation and i.indisunique
                  and a.attnum = any(i.indkey::smallint[]))
 order by 1, 2

-- name: highest
-- The greatest value of a column. Index: the one that makes it unique, if it is the first of it.
select coalesce(max({column}), 0)::bigint from {table}
