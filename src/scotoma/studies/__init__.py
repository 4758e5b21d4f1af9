"""Studies: arms, runs, summaries."""
