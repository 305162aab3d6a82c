"""The model servers: where they are, which versions are proven on them, how an image gets to one."""
