"""The command line of `tools/design.py`: its subcommands, tables and charts."""
