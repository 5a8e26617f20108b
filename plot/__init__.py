"""Figures of the paper as pure functions of result tables."""
