"""One module for each published system, and the harness that all of them share."""
