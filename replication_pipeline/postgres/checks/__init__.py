"""What ``doctor`` looks at in PostgreSQL, by theme. Each module has its checks in ``CHECKS``.

    role       the connected role and its connection: membership, rights, row security, pooler, TLS
    capture    triggers, the version column, compiled captures
    tables     keys, unique indexes, foreign keys, triggers of users
    server     versions, old transactions, vacuum, retention
    registry   what heartbeats tell: who takes part, clocks
    others     contours that ``compare.contours`` reaches: identities, columns, sequences, collations

A check reads, and never writes. Its SQL is in ``sql/queries/doctor*.sql``.
"""
