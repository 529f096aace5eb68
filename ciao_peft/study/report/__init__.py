"""A study as a page, a text, tables and figures."""
