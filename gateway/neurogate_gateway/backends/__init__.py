"""The model servers: where they are, which versions are READY on them, how an image gets to one."""
