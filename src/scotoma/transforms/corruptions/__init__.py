"""Corruptions of images, one module each; a module that lies here is found."""
