"""The command line: one thin module per command (docs/command_line.md)."""
