"""Reconstructors over many scans with references: scores by the conventions of the field, statistics, and a report."""
