"""The report of a sweep: its jobs grouped and compared, from the files in their directories, without any API call."""
