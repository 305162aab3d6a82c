"""Examples, feedback and retrainings as use cases, and the trainers that carry them out. No gRPC here."""
