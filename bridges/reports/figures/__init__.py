"""Figures of reports: each file one pure function from data to an SVG element."""
