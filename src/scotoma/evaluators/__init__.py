"""Evaluators: one file each; an encoder or a model and a table in, rows out. Found by module name; nothing is registered."""
