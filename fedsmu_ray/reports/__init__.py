"""The report of a sweep: figures, tables and a page, from plain data."""
