"""The file formats, one module a family; :mod:`scotoma.data.images` chooses among them."""
