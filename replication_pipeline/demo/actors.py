"""The applications of the demo: what they write, and how they cope with a server that is busy or away.

Customers and orders are never deleted: what a delete here means for a child made there meanwhile is
for the foreign key's policy to say, and a demo of the ordinary should not hang on that.

Whatever can pass (locks, deadlocks, a restart) is tried again.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable, SerializationFailure
from psycopg.types.json import Jsonb
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_when_event_set
from tenacity.wait import wait_random_exponential

from replication_pipeline.demo.contours import HOT_ROWS, Contour

Work = Callable[[psycopg.Connection], None]

REMEMBERED: Final = 300
"""So many of its newest rows a writer changes; the rest grow old in peace."""
PASSING: Final = (
    SerializationFailure,
    DeadlockDetected,
    LockNotAvailable,
    psycopg.OperationalError,
)

NEW_CUSTOMER: Final = """
insert into customers (name, email, balance, preferences, tags)
values (%s, %s, %s, %s, %s) returning id
"""
NEW_ORDER: Final = """
insert into orders (customer_id, total, details) values (%s, %s, %s) returning id
"""
NEW_ITEMS: Final = """
insert into order_items (order_id, product, quantity, price, labels)
select %s, product, quantity, price, array[product, 'demo']
  from unnest(%s::text[], %s::int[], %s::numeric[]) i(product, quantity, price) returning id
"""
CHANGE_BALANCE: Final = "update customers set balance = balance + %s where id = %s"
CHANGE_STATUS: Final = """
update orders set status = %s, details = coalesce(details, '{}') || %s where id = %s
"""
CHANGE_ITEM: Final = """
update order_items set quantity = %s, changed_at = now() where id = %s
"""
DELETE_ITEM: Final = "delete from order_items where id = %s"

STATUSES: Final = ("new", "paid", "sent", "done")
PRODUCTS: Final = ("apple", "bread", "cheese", "Käse", "茶", "o'lives")


class Desk:
    """One application's connection to one contour; every transaction is done, or given up at stop."""

    def __init__(self, contour: Contour, stop: threading.Event) -> None:
        self._contour = contour
        self._stop = stop
        self._connection: psycopg.Connection | None = None

    def transact(self, work: Work) -> None:
        """One transaction, again after what can pass. Does nothing once the demo stops."""
        try:
            Retrying(
                retry=retry_if_exception_type(PASSING),
                stop=stop_when_event_set(self._stop),
                wait=wait_random_exponential(multiplier=0.02, max=1),
                sleep=self._pause,
            )(self._once, work)
        except RetryError:
            return

    def close(self) -> None:
        """End the session."""
        if self._connection is not None:
            self._connection.close()

    def _pause(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _once(self, work: Work) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._contour.application,
                application_name="demo_application",
                autocommit=True,
                connect_timeout=2,
                options="-c lock_timeout=2s -c statement_timeout=5s",
            )
        with self._connection.transaction():
            work(self._connection)


@dataclass(slots=True)
class Rows:
    """Ids of the newest rows that a writer made."""

    customers: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    orders: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    items: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def load(self, session: psycopg.Connection) -> None:
        """Those of earlier starts, whoever made them."""
        for ids, query in (
            (self.customers, "select id from customers order by id desc limit 50"),
            (self.orders, "select id from orders order by id desc limit 50"),
            (self.items, "select id from order_items order by id desc limit 50"),
        ):
            ids.clear()
            ids.extend(row[0] for row in session.execute(query))


@dataclass(slots=True)
class Writer:
    """The ordinary life of one contour."""

    desk: Desk
    label: str
    chance: random.Random
    rows: Rows = field(default_factory=Rows)

    def begin(self) -> None:
        """Before the first transaction."""
        self.desk.transact(self.rows.load)

    def step(self) -> None:
        """One transaction of a mixed kind."""
        kinds: Mapping[Work, int] = {
            self._buy: 30,
            self._change_balance: 30,
            self._change_status: 25,
            self._change_item: 5,
            self._delete_item: 10,
        }
        self.desk.transact(self.chance.choices(list(kinds), list(kinds.values()))[0])

    def _buy(self, session: psycopg.Connection) -> None:
        customer = self._customer(session)
        count = self.chance.randint(1, 3)
        prices = [self.chance.randint(50, 9_999) / 100 for _ in range(count)]
        details = Jsonb({"channel": self.chance.choice(["web", "shop"]), "site": self.label})
        order = _id(session, NEW_ORDER, (customer, sum(prices), details))
        items = session.execute(
            NEW_ITEMS,
            (
                order,
                self.chance.choices(PRODUCTS, k=count),
                [self.chance.randint(1, 9) for _ in range(count)],
                prices,
            ),
        ).fetchall()
        self.rows.orders.append(order)
        self.rows.items.extend(item for (item,) in items)

    def _customer(self, session: psycopg.Connection) -> int:
        name = f"Customer {self.chance.randrange(10**6)} of {self.label}"
        email = f"{name.replace(' ', '.').lower()}@example.com"
        tags = self.chance.sample(["new", "vip", "letter", "late"], k=self.chance.randint(0, 3))
        balance = self.chance.randint(0, 100_000) / 100
        customer = _id(
            session, NEW_CUSTOMER, (name, email, balance, Jsonb({"lang": self.label}), tags)
        )
        self.rows.customers.append(customer)
        return customer

    def _change_balance(self, session: psycopg.Connection) -> None:
        amount = self.chance.randint(-5_000, 5_000) / 100
        _change(session, CHANGE_BALANCE, (amount,), self._one_of(self.rows.customers))

    def _change_status(self, session: psycopg.Connection) -> None:
        values = (self.chance.choice(STATUSES), Jsonb({"seen_by": self.label}))
        _change(session, CHANGE_STATUS, values, self._one_of(self.rows.orders))

    def _change_item(self, session: psycopg.Connection) -> None:
        values = (self.chance.randint(1, 9),)
        _change(session, CHANGE_ITEM, values, self._one_of(self.rows.items))

    def _delete_item(self, session: psycopg.Connection) -> None:
        _change(session, DELETE_ITEM, (), self._one_of(self.rows.items))

    def _one_of(self, ids: Sequence[int]) -> int | None:
        return self.chance.choice(ids) if ids else None


@dataclass(slots=True)
class Rival:
    """Writes one row in both contours at once: the later write wins, in both."""

    desks: tuple[Desk, Desk]
    chance: random.Random
    hot: list[tuple[int, int]] = field(default_factory=list)

    def begin(self) -> None:
        """Look the hot rows up."""
        self.desks[0].transact(self._find_hot)

    def step(self) -> None:
        """One row, both contours, a moment apart."""
        if not self.hot:
            self.begin()
            return
        customer, order = self.chance.choice(self.hot)
        match self.chance.choice(("balance", "status", "item")):
            case "balance":
                both: list[Work] = [self._balance(customer), self._balance(customer)]
            case "status":
                both = [self._status(order), self._status(order)]
            case _:
                both = self._update_and_delete()
        desks = list(self.desks)
        self.chance.shuffle(desks)
        for desk, work in zip(desks, both, strict=False):
            desk.transact(work)

    def _balance(self, customer: int) -> Work:
        amount = self.chance.randint(-500, 500) / 100
        return lambda session: _change(session, CHANGE_BALANCE, (amount,), customer)

    def _status(self, order: int) -> Work:
        values = (self.chance.choice(STATUSES), Jsonb({"rivals": self.chance.random()}))
        return lambda session: _change(session, CHANGE_STATUS, values, order)

    def _update_and_delete(self) -> list[Work]:
        """An item old enough to be in both contours."""
        ids: list[int] = []

        def find(session: psycopg.Connection) -> None:
            rows = session.execute(
                "select id from order_items order by id desc limit 50 offset 200"
            )
            ids[:] = [row[0] for row in rows]

        self.desks[0].transact(find)
        if not ids:
            return []
        item, quantity = self.chance.choice(ids), self.chance.randint(1, 9)
        return [
            lambda session: _change(session, CHANGE_ITEM, (quantity,), item),
            lambda session: _change(session, DELETE_ITEM, (), item),
        ]

    def _find_hot(self, session: psycopg.Connection) -> None:
        self.hot = session.execute(
            "select customer_id, min(id) from orders group by 1 order by 1 limit %s", (HOT_ROWS,)
        ).fetchall()


def _id(session: psycopg.Connection, statement: str, values: Sequence[object]) -> int:
    row = session.execute(statement.encode(), values).fetchone()
    assert row is not None
    return int(row[0])


def _change(
    session: psycopg.Connection, statement: str, values: Sequence[object], key: int | None
) -> None:
    if key is not None:
        session.execute(statement.encode(), (*values, key))
