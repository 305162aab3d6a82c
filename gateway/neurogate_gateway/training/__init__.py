"""Examples, feedback and retrainings as use cases: what may be asked, and what becomes of it. No gRPC here.

Imported only where records are configured.
"""
