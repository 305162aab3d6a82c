"""Logs, metrics, and signals between parts."""
