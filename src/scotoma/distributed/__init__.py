"""Several processes: launching them, collectives."""
