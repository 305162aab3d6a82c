"""The life cycle of versions: proof by evaluation, promotion, canary, shadow, guards and rollback."""
