"""Time and memory of calls (`timing`, `memory`), and of networks in one setting (`meter`)."""
