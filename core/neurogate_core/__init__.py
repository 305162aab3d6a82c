"""What the parts share: preprocessing, the manifest, model versions on disk. No TensorFlow."""
