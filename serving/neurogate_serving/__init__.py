"""What training and serving share: the image transform, the manifest, and model versions on disk."""
