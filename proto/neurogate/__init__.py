"""Neurogate's protobuf contract: `neurogate.v1` for callers, `neurogate.tfs.v1` for TensorFlow Serving."""
