"""From an encoded image to a prediction: admission, version, pixels, model server, verdict."""
