"""The table that everything is measured on, and what is written to it.

A row is about 200 bytes as JSON.
"""

from __future__ import annotations

from typing import Final

NAMES: Final = "id, email, name, balance, meta, updated_at"
COLUMNS: Final = "email text, name text, balance numeric(12,2), meta jsonb, updated_at timestamptz"
# Of row number g.
VALUES: Final = """
'user' || g || '@example.com', 'User Number ' || g, (g % 100000) / 100.0,
'{"plan": "pro", "tags": ["a", "b", "c"], "logins": 17}', now()"""
TABLE: Final = f"create table users (id bigint primary key, {COLUMNS})"
UPDATE: Final = "update users set balance = balance + 1"
DELETE: Final = "delete from users"

# One client's transactions for pgbench: a new key, and a known one.
SINGLE_INSERT: Final = r"""
\set id random(-9000000000000000000, -1)
insert into users values (:id, 'user' || :id || '@example.com', 'User Number ' || :id, 1042.50,
  '{"plan": "pro", "tags": ["a", "b", "c"], "logins": 17}', now());
"""
SINGLE_UPDATE: Final = r"""
\set id random(1, :keys)
update users set balance = balance + 1, updated_at = now() where id = :id;
"""


def one_by_one(first: int, last: int) -> str:
    """As many statements of one row, run by the server itself in one transaction."""
    return f"""
do $do$ begin
  for g in {first}..{last} loop
    insert into users
    values (g, {VALUES});
  end loop;
end $do$"""


def insert(first: int, last: int) -> str:
    """One statement that makes the rows ``first`` to ``last``."""
    return f"insert into users select g, {VALUES} from generate_series({first}, {last}) g"
