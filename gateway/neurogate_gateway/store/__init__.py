"""What the gateway remembers: predictions, examples, feedback, retrainings and their events."""
