"""What every other package speaks of: errors, files and paths, quantities, the machine. Imports nothing of ours."""
