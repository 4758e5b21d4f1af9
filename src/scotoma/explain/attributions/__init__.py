"""Attribution maps, one module a method; a module that lies here is found."""
