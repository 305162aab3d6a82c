"""The subset of TensorFlow Serving that the gateway speaks: wire-compatible messages without TensorFlow."""
