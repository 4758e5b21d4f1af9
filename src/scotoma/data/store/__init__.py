"""The store: images decoded once, memory-mapped."""
