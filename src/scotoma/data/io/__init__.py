"""Files of images -> pixels and header facts."""
