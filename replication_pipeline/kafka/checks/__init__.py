"""What ``doctor`` judges in Kafka, by theme. Each module has its checks in ``CHECKS``.

    cluster    brokers, rights, TLS, and which topics there are
    topics     each table's topic: partitions, copies, retention, sizes, policy

``inspection`` asks Kafka once; a check judges what it was told, and asks nothing.
"""
