"""``python -m replication_pipeline`` is the console script."""

from replication_pipeline.cli.main import main

if __name__ == "__main__":
    main()
