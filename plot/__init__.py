"""Figures as pure functions of result tables: registry and results in, PDF and PNG out."""
