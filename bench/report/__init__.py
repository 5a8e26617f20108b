"""The report: one verdict table as a page, as Markdown and as JSON."""
