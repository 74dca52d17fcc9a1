"""The command `regnet-backbones` and its subcommands."""
