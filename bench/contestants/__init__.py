"""Ways to capture the changes of a table, behind one interface; a file each."""
