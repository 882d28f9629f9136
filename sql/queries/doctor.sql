-- What may be wrong in a contour. Plain catalog reads; every answer is a list of what is to be mended, so an
-- empty one is good news. They ask about the role that is connected.

-- name: membership
-- Groups that the role lacks. Superusers are members of all.
select g.name from unnest(array['replication_publisher', 'replication_consumer']) as g(name)
 where not pg_has_role(current_user, g.name, 'usage')

-- name: can_look
select has_schema_privilege(current_user, 'replication', 'usage')
   and has_table_privilege(current_user, 'replication.replicated_tables', 'select')

-- name: tables
-- Replicated tables; tables that they reference, whose rows are locked; and tables that reference them, which a
-- delete looks at, and which its foreign key's action may change.
with replicated as (
  select r.relation::oid as relation from replication.replicated_tables r
), wanted as (
  select relation, true as applied, unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) as privilege
    from replicated
   union
  select k.confrelid, false, unnest(array['SELECT', 'UPDATE'])
    from pg_constraint k join replicated r on r.relation = k.conrelid
   where k.contype = 'f' and k.conparentid = 0 and k.confrelid not in (select relation from replicated)
   union
  select k.conrelid, false,
         unnest(array['SELECT'] || case k.confdeltype when 'c' then 'DELETE' when 'n' then 'UPDATE' end)
    from pg_constraint k join replicated r on r.relation = k.confrelid
   where k.contype = 'f' and k.conparentid = 0 and k.conrelid not in (select relation from replicated)
)
select relation::regclass::text, applied, string_agg(lower(privilege), ', ' order by privilege)
  from wanted
 where privilege is not null and not has_table_privilege(current_user, relation, privilege)
 group by relation, applied order by 1

-- name: schemas
-- Schemas of replicated tables that can't be entered.
select distinct c.relnamespace::regnamespace::text
  from replication.replicated_tables r join pg_class c on c.oid = r.relation
 where not has_schema_privilege(current_user, c.relnamespace, 'usage')
 order by 1

-- name: own_objects
-- Tables and functions of the schema replication that one of the groups may use and this role may not.
select distinct c.oid::regclass::text, a.privilege_type, a.grantee::regrole::text
  from pg_class c cross join aclexplode(c.relacl) a
 where c.relnamespace = 'replication'::regnamespace
   and a.grantee in ('replication_publisher'::regrole, 'replication_consumer'::regrole)
   and c.relkind in ('r', 'p', 'v')
   and not has_table_privilege(current_user, c.oid, a.privilege_type)
 order by 1, 2

-- name: parameter
-- Whether applied rows can be written without firing triggers.
select has_parameter_privilege(current_user, 'session_replication_role', 'set')

-- name: row_security
-- Tables whose policies would hide rows from apply, without an error.
select r.relation::text
  from replication.replicated_tables r join pg_class c on c.oid = r.relation
 where c.relrowsecurity
   and (c.relforcerowsecurity or not pg_has_role(current_user, c.relowner, 'usage'))
   and not exists (select from pg_roles where rolname = current_user and (rolsuper or rolbypassrls))
 order by 1

-- name: not_set_up
-- Tables of the configuration that are not set up here.
select name from unnest(%(tables)s::text[]) as t(name)
 where name not in (select table_name from replication.replicated_tables) order by 1

-- name: not_configured
-- Tables that are captured here and that the configuration does not name: nobody publishes to their topics'
-- readers here, and their events from elsewhere are not applied.
select table_name from replication.replicated_tables
 where table_name <> all(%(tables)s::text[]) order by 1

-- name: disabled_triggers
-- Capture that somebody has switched off, or made fire for applied rows as well.
select t.tgrelid::regclass::text, t.tgname
  from pg_trigger t
 where t.tgname in ('replication_capture_insert', 'replication_capture_update', 'replication_capture_delete',
                    'replication_capture_truncate', 'zz_replication_stamp_update', 'zzz_replication_merge')
   and t.tgenabled <> 'O'
 order by 1, 2

-- name: loud_triggers
-- Triggers of users that fire for applied rows as well, and may change what is applied.
select t.tgrelid::regclass::text, t.tgname
  from pg_trigger t join replication.replicated_tables r on r.relation = t.tgrelid
 where not t.tgisinternal and t.tgenabled in ('A', 'R')
   and t.tgfoid not in (select oid from pg_proc where pronamespace = 'replication'::regnamespace)
 order by 1, 2

-- name: renamed
-- Tables that were renamed after they were set up: events keep the former name.
select r.table_name, r.relation::text
  from replication.replicated_tables r
  join pg_class c on c.oid = r.relation join pg_namespace n on n.oid = c.relnamespace
 where r.table_name <> case when n.nspname = 'public' then c.relname else n.nspname || '.' || c.relname end
 order by 1

-- name: tls
select coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)
