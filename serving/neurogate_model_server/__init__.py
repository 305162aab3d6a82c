"""The embedded model server: TensorFlow Serving's gRPC API in one Python process.

It is the default backend on one machine and the test double of the real server, and is held to transcripts
recorded from TensorFlow Serving. Nothing outside this package imports TensorFlow on its behalf.
"""
