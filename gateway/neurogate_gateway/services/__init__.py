"""Thin gRPC servicers: they check what a message says and hand it to the use cases."""
