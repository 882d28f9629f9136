"""Values and pure decisions. Standard library only: no I/O, no clock but those passed in."""
