"""Every type that a column can have, and the values of it that break things.

Values are PostgreSQL's own texts, and are sent without a type: the column's input function reads
them, as in an application's statement. Nothing here is read by the product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline_tests.conftest import Contour

Image = bytes | None
Row = dict[str, tuple[Image, Image]]

# A text is hard where it looks like something else: to JSON, SQL, arrays, COPY or a format string.
TEXTS: Final = (
    "",
    " ",
    "  padded  ",
    "it's",
    '"',
    "\\",
    '\\"\\n\\u0000',
    "\t\n\r\f\b\v",
    "".join(chr(code) for code in range(1, 32)) + "\x7f",
    "\x85\u2028\u2029\u200b",
    "é e\u0301 Ж 中文 العربية",
    "👩‍👩‍👧 🏳️‍🌈",
    "\ufeffBOM \ufffd \ufffe \uffff \ue000",
    "\U0001ffff \U0010ffff",
    "NULL",
    "null",
    "true",
    "-0",
    "Infinity",
    "{}",
    '{"a": 1}',
    "[1,2]",
    "{1,NULL}",
    "(1,2)",
    "\\N",
    "\\x00",
    "%s %% %(x)s {} {0}",
    "$1 $capture$ -- /*",
    "x" * 5000,  # longer than a page keeps in line
)
JSONS: Final = (
    "null",
    "true",
    '""',
    "0",
    "-0.0",
    "1e400",
    "1E-400",
    "-1.50",
    "[]",
    "{}",
    ' { "a" : 1 , "a":2, "": [ null , "\\u00e9\\/\\ud83d\\ude00" ] }\n',
    '"q\\"\\\\\\b\\f\\n\\r\\t\\u0001\u2028"',
    '"{\\"a\\": 1}"',
    "12345678901234567890.12345678901234567890",
    "[" * 200 + "]" * 200,
    '{"\\u0022 \\\\ ": "' + "é" * 3000 + '"}',
)
NUMERICS: Final = (
    "0",
    "0.00",
    "-1.50",
    "100000",
    "NaN",
    "Infinity",
    "-Infinity",
    "12345678901234567890.12",
    "9" * 1000,
    "-0." + "0" * 999 + "1",
    "1" + "0" * 499 + "." + "0" * 500,
    "9" * 131072 + "." + "9" * 16383,  # the largest there is
)
DATES: Final = (
    "4713-11-24 BC",
    "0044-03-15 BC",
    "0001-12-31 BC",
    "0001-01-01",
    "1582-10-10",
    "1970-01-01",
    "2000-02-29",
    "9999-12-31",
    "10000-01-01",
    "294276-12-31",
    "infinity",
    "-infinity",
)
TIMESTAMPS: Final = (
    "4713-11-24 00:00:00 BC",
    "0001-12-31 23:59:59.999999 BC",
    "0001-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "2026-11-22 21:00:00.5",
    "2016-12-31 23:59:60",
    "9999-12-31 23:59:59.999999",
    "10000-01-01 00:00:00",
    "294276-12-31 23:59:59.999999",
    "infinity",
    "-infinity",
)
DOUBLES: Final = (
    "0",
    "-0",
    "0.1",
    "-1.5",
    "0.30000000000000004",
    "9007199254740993",
    "1e15",
    "1e16",
    "1e-7",
    "5e-324",
    "2.2250738585072009e-308",
    "2.2250738585072014e-308",
    "1.7976931348623157e308",
    "-1.7976931348623157e308",
    "NaN",
    "Infinity",
    "-Infinity",
)


def _in_utc(timestamp: str) -> str:
    if timestamp.endswith("infinity"):
        return timestamp
    era = " BC" if timestamp.endswith(" BC") else ""
    return timestamp.removesuffix(era) + "+00" + era


# By the names of pg_type; values of their arrays are made from these.
BUILT_IN: Final[dict[str, tuple[str, ...]]] = {
    "bool": ("t", "f"),
    "int2": ("-32768", "-1", "0", "32767"),
    "int4": ("-2147483648", "0", "2147483647"),
    "int8": (
        "-9223372036854775808",
        "0",
        "9007199254740993",
        "-9007199254740993",
        "9223372036854775807",
    ),
    "float4": (
        *("0", "-0", "0.1", "-1.5", "16777217", "1e10", "1e-45", "1.1754942e-38", "1.17549435e-38"),
        *("3.4028235e38", "-3.4028235e38", "NaN", "Infinity", "-Infinity"),
    ),
    "float8": DOUBLES,
    "numeric": NUMERICS,
    "money": ("-92233720368547758.08", "-0.01", "0", "1234567.89", "92233720368547758.07"),
    "text": TEXTS,
    "varchar": TEXTS,
    "bpchar": ("", " ", "x", " x  ", '"\\\n', "é👩‍👩‍👧\uffff  "),
    "char": ("", "a", " ", '"', "\\", "'", "{", ",", "\\001", "\\177", "\\200", "\\377"),
    "name": ("", "pg_class", 'q" \\', "é" * 31, "x" * 63, "\U0010ffff\x01"),
    "bytea": (
        "\\x",
        "\\x00",
        "\\xdeadbeef",
        "\\x" + bytes(range(256)).hex(),
        "\\x" + "27" * 57,  # Base64 is wrapped after so many bytes
        "\\x" + "5c" * 10_000,
    ),
    "json": (*JSONS, '"\\u0000"', '[1,\n\t1.0,1.00e0]  ', '{"a":1,"b":2,"a":3}'),
    "jsonb": JSONS,
    "jsonpath": (
        "$",
        'strict $.a[*] ? (@.b > 1.50 && @."q\\"\\\\" like_regex "^a" flag "i")',
        'lax $.**{2 to last}.type() ? (exists (@ ? (@ starts with "é👩")))',
        '$[0 to last - 1].datetime("HH24:MI")',
        '"a\\u0001\\n"',
    ),
    "date": (*DATES, "5874897-12-31"),
    "time": ("00:00:00", "00:00:00.000001", "12:34:56.7", "23:59:59.999999", "24:00:00"),
    "timetz": (
        *("00:00:00+15:59:59", "24:00:00-15:59:59", "12:34:56.7+00", "23:59:59.999999+05:30"),
    ),
    "timestamp": TIMESTAMPS,
    "timestamptz": (
        *(_in_utc(value) for value in TIMESTAMPS),
        "2026-03-29 02:30:00+05:45",
        "0001-01-01 00:30:00+01",
        "1900-01-01 00:00:00.1-15:59:59",
    ),
    "interval": (
        "0",
        "1 mon -1 day +00:00:00.000001",
        "-1 years -1 mons +1 day -00:00:00.1",
        "1 day",
        "24:00:00",
        "-00:00:01",
        "178956970 years 7 mons 2147483647 days 2562047788:00:54.775806",
        "-178956970 years -8 mons -2147483648 days -2562047788:00:54.775807",
        "infinity",
        "-infinity",
    ),
    "bit": ("", "0", "1", "10" * 40),
    "varbit": ("", "0", "1", "0" * 9, "101" * 500),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "inet": ("0.0.0.0/0", "255.255.255.255", "10.1.2.3/8", "::", "::ffff:1.2.3.4", "fe80::1/64"),
    "cidr": ("0.0.0.0/0", "10.0.0.0/8", "192.168.100.128/25", "::/0", "2001:db8::/32"),
    "macaddr": ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"),
    "macaddr8": ("00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff"),
    "point": ("(0,-0)", "(5e-324,1.7976931348623157e308)", "(NaN,-Infinity)", "(0.1,0.2)"),
    "line": ("{1,-1,0}", "{0.1,-0.3,1e300}"),
    "lseg": ("[(0,0),(0,0)]", "[(-0,0.1),(1e-300,Infinity)]"),
    "box": ("(0,0),(0,0)", "(2.5,1e300),(-0.1,-Infinity)"),
    "path": ("[(0,0)]", "((0,0),(1,0.1),(-0,5e-324))", "[(0,0),(Infinity,NaN)]"),
    "polygon": ("((0,0))", "((0,0),(1,0.1),(5e-324,-2))"),
    "circle": ("<(0,0),0>", "<(0.1,-0.2),1e300>"),
    "tsvector": (
        "",
        "'a'",
        "'it''s':1A,2B,3 'sp ace':16383 'back\\\\slash' '\"' 'é👩':4C",
        "'\n\t' ':1' '&|!'",
    ),
    "tsquery": (
        "",
        "'a'",
        "'a' & !( 'b' | 'it''s':*AB ) <-> 'sp ace' <3> 'back\\\\slash'",
        "!!'é👩'",
    ),
    "pg_lsn": ("0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"),
    "oid": ("0", "1", "4294967295"),
    "xid": ("0", "3", "4294967295"),
    "xid8": ("0", "9007199254740993", "18446744073709551615"),
    "cid": ("0", "4294967295"),
    "tid": ("(0,0)", "(4294967295,65535)"),
    "pg_snapshot": ("1:1:", "10:20:10,14,15"),
    "txid_snapshot": ("1:1:", "10:20:10,14,15"),
    "refcursor": ("", 'cursor "1"'),
    "int2vector": ("", "1", "-32768 0 32767"),
    "oidvector": ("", "0", "4294967295 1"),
    "xml": (
        "",
        "text &amp; <b/>",
        "<?xml version=\"1.0\"?><!-- c --><a b='1'><![CDATA[<]]>é👩</a>",
        "<?pi?>  <a/>\n<b/>",
    ),
    # Names of objects travel as names. These objects are in every database.
    "regclass": ("-", "pg_class", "information_schema.tables", "4294967295"),
    "regcollation": ("-", '"C"', '"ucs_basic"'),
    "regconfig": ("simple", "english"),
    "regdictionary": ("simple",),
    "regnamespace": ("-", "pg_catalog", "public", "replication"),
    "regoper": ("0", "||/"),
    "regoperator": ("0", "+(integer,integer)", "-(NONE,bigint)"),
    "regproc": ("-", "now", "replication.install_clock"),
    "regprocedure": ("-", "lower(text)", "sum(double precision)"),
    "regrole": ("-", "postgres", "replication_owner"),
    "regtype": ("-", "integer", "timestamp with time zone[]", '"char"', "numeric", "record"),
    "aclitem": ("=r/postgres", "postgres=arwdDxtm*/postgres"),
    "int4range": ("empty", "[-2147483648,2147483647)", "(,)", "[1,)", "(,1)", "[5,6)"),
    "int8range": ("empty", "[-9223372036854775808,9223372036854775807)", "(,)", "[1,)"),
    "numrange": ("empty", "(,)", "[1.50,1.500]", "(-Infinity,NaN)", "(0.1,1e100]", "[1,)"),
    "daterange": ("empty", "(,)", '["4713-11-24 BC",5874897-12-31)', "[-infinity,infinity)"),
    "tsrange": (
        "empty",
        "(,)",
        '["4713-11-24 00:00:00 BC","294276-12-31 23:59:59.999999"]',
        "[-infinity,infinity)",
    ),
    "tstzrange": (
        "empty",
        "(,)",
        '["4713-11-24 00:00:00+00 BC","2026-11-22 21:00:00.5+00"]',
        "(-infinity,infinity)",
    ),
    "int4multirange": ("{}", "{(,)}", "{[1,3),[5,6)}", "{(,-5),[7,)}"),
    "int8multirange": ("{}", "{(,)}", "{[-9223372036854775808,0),[9007199254740993,)}"),
    "nummultirange": ("{}", "{(,)}", "{[1.50,1.500],(2,NaN)}", "{(,-Infinity),[0.10,0.20]}"),
    "datemultirange": ("{}", "{(,)}", '{["4713-11-24 BC",2000-01-01),[2001-01-01,infinity)}'),
    "tsmultirange": ("{}", "{(,)}", '{[-infinity,"0044-03-15 12:00:00 BC"],["10000-01-01 0:0:0",)}'),
    "tstzmultirange": ("{}", "{(,)}", '{[-infinity,"0044-03-15 12:00:00+00 BC"]}'),
}  # fmt: skip

_NO_INPUT = "its input function refuses everything, so no application can store a value"
EXCLUDED: Final = {
    "gtsvector": _NO_INPUT,
    "pg_brin_bloom_summary": _NO_INPUT,
    "pg_brin_minmax_multi_summary": _NO_INPUT,
    "pg_dependencies": _NO_INPUT,
    "pg_mcv_list": _NO_INPUT,
    "pg_ndistinct": _NO_INPUT,
    "pg_node_tree": _NO_INPUT,
}

# Between the elements of arrays, where it is no comma.
DELIMITERS: Final = {"box": ";"}

# Modifiers round, cut and pad; what was stored must arrive, not what was written.
WITH_MODIFIERS: Final[dict[str, tuple[str, ...]]] = {
    "numeric(12,2)": ("1.5", "-9999999999.99", "NaN"),
    "numeric(3,-2)": ("12345", "-0"),
    "numeric(2,5)": ("0.00012",),
    "varchar(5)": ("", "é👩\uffff", "x    "),
    "char(5)": ("", "x", " x ", "é👩"),
    "char(1)": ("", "x"),
    "bit(3)": ("101", "000"),
    "varbit(3)": ("", "01"),
    "time(2)": ("12:34:56.789",),
    "timetz(0)": ("12:34:56.789+05:30",),
    "timestamp(0)": ("2026-11-22 21:00:00.5", "infinity"),
    "timestamptz(3)": ("2026-11-22 21:00:00.123456+00",),
    "interval(0)": ("1 day 00:00:00.9",),
    "interval year to month": ("13 mons",),
    "interval second(3)": ("00:00:00.1239",),
    "char(5)[]": ("{x,NULL,'é  '}", "[0:1]={x,y}"),
    "numeric(5,2)[]": ("{1.5,NULL,NaN}", "{{1},{2}}"),
    "bit(3)[]": ("{101,000}",),
    "interval day to second(0)[]": ("{1 day 00:00:00.9}",),
}

USER_TYPES_DDL: Final = """
create schema "Odd Types";
create type mood as enum ('', 'sad', 'it''s', 'q"u\\o', ' {a,b} ', 'NULL', 'é👩');
create type "Odd Types"."100% ""odd"" {}" as enum ('A');
create type inner_pair as (f double precision, "odd "" name" text);
create type pair as (
  n numeric, j json, b bytea, at timestamptz, d double precision, c char(3), ints int[],
  nested inner_pair, m mood, r int4range
);
create domain short_text as varchar(5) default '-' check (value <> 'never');
create domain deeper as short_text check (value <> '');
create domain price as numeric(12,2);
create domain code as char(3);
create domain flags as bit(3);
create domain any_flags as "bit";
create domain tags as varchar(5);
create domain int_list as int[];
create domain checked_pair as pair check ((value).n is null or (value).n <> 13);
create domain document as jsonb;
create domain raw_document as json;
create domain blob as bytea;
create domain moment as timestamptz(0);
create domain feeling as mood;
create domain span as int4range;
create domain nothing as double precision;
create type float_range as range (subtype = double precision);
create type text_range as range (subtype = text, collation = "C");
"""
_PAIRS: Final = (
    "(,,,,,,,,,)",
    '(1.50,"{""a"":  1}","\\\\x00ff",infinity,-0,x,"{1,NULL}","(-0,""it\'s """"q"""""")",sad,"[1,2)")',
    '(NaN,null,"\\\\x","0044-03-15 12:00:00+00 BC",NaN,"",{},"(,)","q""u\\\\o",empty)',
)
_MOODS: Final = ("", "sad", "it's", 'q"u\\o', " {a,b} ", "NULL", "é👩")
USER_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "mood": _MOODS,
    '"Odd Types"."100% ""odd"" {}"': ("A",),
    "pair": _PAIRS,
    "inner_pair": ("(,)", "(-0,)", '(5e-324,"\\\\""")'),
    "deeper": (" ", "é👩\uffff"),
    "price": ("1.5", "NaN"),
    "code": ("", "x", "xyz", "é👩"),
    "flags": ("101",),
    "any_flags": ("", "10101"),
    "tags": ("", '"\\', "12345"),
    "int_list": ("{}", "{1,NULL}", "[0:1]={1,2}", "{{1},{2}}"),
    "checked_pair": _PAIRS,
    "document": JSONS,
    "raw_document": BUILT_IN["json"],
    "blob": BUILT_IN["bytea"],
    "moment": ("2026-11-22 21:00:00.5+00", "infinity", "0044-03-15 12:00:00+00 BC"),
    "feeling": _MOODS,
    "span": ("empty", "(,)"),
    "nothing": DOUBLES,
    "float_range": ("empty", "(,)", "[-0,0]", "(5e-324,Infinity)", "[NaN,NaN]"),
    "float_multirange": ("{}", "{[-0,0],(5e-324,Infinity)}"),
    "text_range": ("empty", "(,)", '["","\\\\"]', '(" ","{""a"": 1}")', '["[","é👩")'),
    "text_multirange": ("{}", '{["","\\\\"],("{",)}'),
}

# Types of extensions; a server that lacks one is tested without it.
EXTENSIONS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "hstore": {"hstore": ("", '"a"=>"1", "b"=>NULL', '""=>"", "q\\"u\\\\o"=>"NULL", " é "=>"👩"')},
    "citext": {"citext": TEXTS},
    "ltree": {
        "ltree": ("", "Top.Science.x_1"),
        "lquery": ("Top.*{1,2}.!a@*|b%",),
        "ltxtquery": ("Europe & Russia*@ & !Transportation",),
    },
    "cube": {"cube": ("(0)", "(-0, 5e-324)", "(1, 2),(3, 1.7976931348623157e+308)")},
    "seg": {"seg": ("1", "~6.50", "5.0(+-)0.3", "<1 .. >2.00", "1.5e-10 ..")},
    "isn": {
        "isbn13": ("978-0-306-40615-7",),
        "ean13": ("000-000000000-0",),
        "issn": ("1436-4522",),
    },
    "lo": {"lo": ("0", "4294967295")},
    "intarray": {"query_int": ("1&(2|!3)",)},
    "vector": {
        "vector": ("[1,-0.1,1e-30]",),
        "vector(2)": ("[0.1,-0]",),
        "halfvec": ("[0.1,65504]",),
        "sparsevec": ("{1:0.1,3:-2}/5",),
    },
}


def array_literal(values: Iterable[str | None], delimiter: str = ",") -> str:
    """One dimension, every value quoted."""
    return "{" + delimiter.join("NULL" if v is None else _quoted(v) for v in values) + "}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def arrays_of(values: Sequence[str], delimiter: str = ",") -> tuple[str, ...]:
    """Arrays of every shape whose elements are ``values`` and NULL."""
    first, last = values[0], values[-1]
    row, other = array_literal([first, None], delimiter), array_literal([last, first], delimiter)
    return (
        "{}",
        "{NULL}",
        array_literal([*values, None], delimiter),
        array_literal([last], delimiter),
        "[0:1]=" + row,  # a lower bound of its own
        "[-5:-5]=" + array_literal([first], delimiter),
        f"{{{row}{delimiter}{other}}}",
        f"[2:3][-1:0]={{{row}{delimiter}{other}}}",
        f"{{{{{row}}}{delimiter}{{{other}}}}}",
    )


def zoo() -> dict[str, tuple[str, ...]]:
    """Values for each type as SQL writes it."""
    singles = {**{_column_type(name): values for name, values in BUILT_IN.items()}, **USER_TYPES}
    # The largest numeric once, not in every array.
    return (
        singles
        | {
            f"{name}[]": arrays_of(
                [v for v in values if len(v) < 10_000], DELIMITERS.get(name, ",")
            )
            for name, values in singles.items()
        }
        | WITH_MODIFIERS
    )


def _column_type(name: str) -> str:
    """The built-in type without the length of one that its plain name would mean."""
    return {"char": '"char"', "bit": '"bit"'}.get(name, name)


def animals(server: psycopg.Connection[Any]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """DDL that makes the types that ``server`` can have, and values for each of them."""
    ddl, values = USER_TYPES_DDL, zoo()
    installable = {name for (name,) in server.execute("select name from pg_available_extensions")}
    for extension, types in EXTENSIONS.items():
        if extension not in installable:
            continue
        ddl += f"create extension {extension};\n"
        for name, singles in types.items():
            values |= {name: singles, f"{name}[]": arrays_of(singles)}
    try:
        server.execute("select ''::xml")
    except psycopg.errors.FeatureNotSupported:  # built without libxml: no value can be made
        values |= {"xml": (), "xml[]": ("{}", "{NULL}")}
    return ddl, values


def images(contour: Contour, table: str, key: Sequence[str]) -> dict[tuple[Image, ...], Row]:
    """Rows by the texts of their keys. A column's image is what its type's output function says and,
    for built-in types, whose binary form is the same in every database (but for
    the OIDs of reg… types), what the send function says.
    """
    columns = contour.run(
        """select a.attname, greatest(t.oid, e.oid) < 16384 and t.typsend <> 0
                              and (e.typsend <> 0) is not false and t.typname !~ '^_?reg'
             from pg_attribute a join pg_type t on t.oid = a.atttypid
             left join pg_type e on e.oid = t.typelem
            where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
            order by a.attnum""",
        sql.Identifier(table).as_string(),
    )
    texts = _fetch(contour, table, [name for name, _ in columns], key, binary=False)
    binaries = _fetch(contour, table, [name for name, sent in columns if sent], key, binary=True)
    return {
        tuple(text[name] for name in key): {
            name: (image, binary.get(name)) for name, image in text.items()
        }
        for text, binary in zip(texts, binaries, strict=True)
    }


def _fetch(
    contour: Contour, table: str, columns: Sequence[str], key: Sequence[str], *, binary: bool
) -> list[dict[str, Image]]:
    query = sql.SQL("select {} from {} order by {}").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, key)),
    )
    with contour.app.cursor(binary=binary) as cursor:
        result = cursor.execute(query).pgresult  # as the server sent it, unread by psycopg
        assert result is not None
        return [
            {name: result.get_value(row, position) for position, name in enumerate(columns)}
            for row in range(result.ntuples)
        ]


def assert_equal(a: Contour, b: Contour, table: str, key: Sequence[str]) -> None:
    """Fails with what differs between two contours: values by column, missing rows and why."""
    here, there = images(a, table, key), images(b, table, key)
    found = [f"{k}: not in {b.name}: {_shown(here[k])}" for k in here.keys() - there.keys()]
    found += [f"{k}: not in {a.name}: {_shown(there[k])}" for k in there.keys() - here.keys()]
    found += [
        f"{k}, column {name}: {_short(before)} became {_short(there[k][name])}"
        for k in here.keys() & there.keys()
        for name, before in here[k].items()
        if there[k][name] != before
    ]
    parked = b.run("select reason, detail, encode(event, 'escape') from parked_events order by id")
    found += [f"parked: {reason} {detail} {event[:500]}" for reason, detail, event in parked]
    assert not found, "\n".join([f"{len(found)} differences in {table}", *sorted(found)[:50]])


def _shown(row: Row) -> str:
    return ", ".join(f"{name} {_short(images)}" for name, images in row.items() if any(images))


def _short(images: tuple[Image, Image]) -> str:
    text = repr(images[0])
    return text if len(text) < 200 else f"{text[:100]} … {text[-50:]} ({len(text)} characters)"
