"""Figures and `report.html`."""
