"""The gateway: encoded images in, classes of one named model version out.

A request passes admission, gets a version from the router, becomes pixels in the transform pool, is run by
the TensorFlow Serving backend and leaves with a verdict. `main` puts these parts together; docs/gateway.md
describes what an operator sees of them.
"""
