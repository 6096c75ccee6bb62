"""Figures that judge a detector, as a table and as an HTML page (notebook 06)."""
