"""Attribution maps, one module per method; a module that lies here is found."""
