"""Wire-compatible messages for TensorFlow Serving."""
