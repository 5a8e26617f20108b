"""The report: one verdict table as a page, as Markdown, as JSON and on a terminal."""
