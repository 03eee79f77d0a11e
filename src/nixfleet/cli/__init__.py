"""The command line: arguments in, exit codes and lines out."""
