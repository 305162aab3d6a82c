"""Which version answers whom: labels, gate, promotion, canary, shadow, guards and rollback."""
