"""The gRPC server: servicers check what a message says and hand it to the use cases."""
