"""The command line: one thin module per command (README, "From the command line")."""
