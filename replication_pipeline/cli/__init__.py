"""The command line: parses, calls the layers below, and prints for people or as JSON."""
