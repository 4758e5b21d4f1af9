"""From files to a table of images, and from there to pixels."""
