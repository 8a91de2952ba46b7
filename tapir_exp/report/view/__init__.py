"""Pages to browse every row of a run or a sweep: an SQLite file of its artifacts, and Datasette with pages on top."""
