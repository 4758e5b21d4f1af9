"""Methods: one file, one class, one paper. Found by module name; nothing is registered."""
