"""Learning: from split images to weights."""
