"""What the gateway remembers: predictions, examples, feedback, retrainings and their events.

Rows live in a database (SQLite, or PostgreSQL by URL), image bytes once each in a content-addressed folder.
Imported only where records are configured. Everything here is synchronous; callers use a small executor.
"""
