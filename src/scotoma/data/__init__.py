"""From files to a table of pictures, and from there to pixels."""
