-- What doctor asks about replicated tables. Plain catalog reads; an empty answer is good news. Names come as
-- PostgreSQL reads them; `literal` is the table's name as a string constant.

-- name: missing_triggers
with parts as (
  select r.relation, r.merge, p.part, c.relkind
    from replication.replicated_tables r
   cross join lateral (select r.relation::oid as part union select relid from pg_partition_tree(r.relation)) p
    join pg_class c on c.oid = p.part
), wanted as (
  select relation, part, unnest(array['replication_capture_insert', 'replication_capture_update',
                                      'replication_capture_delete', 'zz_replication_stamp_update']
                                || case when relkind <> 'p' then array['replication_capture_truncate'] end
                                || case when merge = 'columns' then array['zzz_replication_merge'] end) as name
    from parts
)
select quote_literal(relation::regclass::text), part::regclass::text, string_agg(name, ', ' order by name)
  from wanted w
 where not exists (select from pg_trigger g where g.tgrelid = w.part and g.tgname = w.name)
 group by relation, part order by 2

-- name: version_defaults
-- Tables without the version column, or without what fills it.
select r.relation::text, quote_literal(r.relation::text), a.attnum is null
  from replication.replicated_tables r
  left join pg_attribute a on a.attrelid = r.relation and a.attname = 'replication_version' and not a.attisdropped
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where pg_get_expr(d.adbin, d.adrelid) is null or pg_get_expr(d.adbin, d.adrelid) !~ 'clock_timestamp'
 order by 1

-- name: stale_captures
select r.relation::text, quote_literal(r.relation::text)
  from replication.replicated_tables r
 where r.fingerprint is distinct from replication.table_fingerprint(r.relation) order by 1

-- name: event_trigger
select from pg_event_trigger where evtname = 'replication_follow_ddl' and evtenabled <> 'D'

-- name: quiet_triggers
-- Users' triggers that do not fire for applied rows, as is usual.
select r.relation::text, string_agg(t.tgname, ', ' order by t.tgname)
  from pg_trigger t join replication.replicated_tables r on r.relation = t.tgrelid
 where not t.tgisinternal and t.tgenabled = 'O'
   and t.tgfoid not in (select oid from pg_proc where pronamespace = 'replication'::regnamespace)
 group by r.relation order by 1

-- name: keyless
select r.relation::text from replication.replicated_tables r
 where not exists (select from pg_constraint k where k.conrelid = r.relation and k.contype = 'p') order by 1

-- name: deferrable
select r.relation::text, quote_ident(k.conname), regexp_replace(pg_get_constraintdef(k.oid), ' DEFERRABLE.*', '')
  from replication.replicated_tables r join pg_constraint k on k.conrelid = r.relation
 where k.contype in ('p', 'u', 'x') and k.condeferrable order by 1, 2

-- name: secondary_unique
select r.relation::text, quote_literal(r.relation::text),
       string_agg(i.indexrelid::regclass::text, ', ' order by i.indexrelid::regclass::text)
  from replication.replicated_tables r join pg_index i on i.indrelid = r.relation
 where i.indisunique and not i.indisprimary and i.indislive and not r.displace
   -- An index that holds the whole key refuses nothing that the key lets pass.
   and not (i.indpred is null and i.indexprs is null and (
         select k.indkey::smallint[] from pg_index k where k.indrelid = r.relation and k.indisprimary)
       <@ i.indkey::smallint[])
 group by r.relation order by 1

-- name: foreign_parents
select r.relation::text, quote_ident(k.conname), k.confrelid::regclass::text
  from replication.replicated_tables r join pg_constraint k on k.conrelid = r.relation
 where k.contype = 'f' and k.conparentid = 0
   and k.confrelid not in (select relation from replication.replicated_tables) order by 1, 2

-- name: foreign_children
select r.relation::text, quote_ident(k.conname), k.conrelid::regclass::text
  from replication.replicated_tables r join pg_constraint k on k.confrelid = r.relation
 where k.contype = 'f' and k.conparentid = 0
   and k.conrelid not in (select relation from replication.replicated_tables) order by 1, 2

-- name: sample
-- The longest rows of a sample of pages, as JSON. `{table}` is filled in; the share is in percent.
select coalesce(max(octet_length(to_json(t)::text)), 0), count(*)
  from (select * from {table} tablesample system (%(share)s) limit 1000) t

-- name: sizes
select r.table_name, n.nspname, c.relname, r.full_before,
       (select coalesce(sum(l.relpages), 0) from pg_class l
         where l.oid in (select relid from pg_partition_tree(r.relation)) or l.oid = r.relation)::bigint
  from replication.replicated_tables r
  join pg_class c on c.oid = r.relation join pg_namespace n on n.oid = c.relnamespace
 where r.table_name = any(%(tables)s::text[]) order by 1
