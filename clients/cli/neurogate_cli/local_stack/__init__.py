"""Model server and gateway on this machine, as child processes."""
