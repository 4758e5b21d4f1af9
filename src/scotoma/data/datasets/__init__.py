"""Public datasets: one file each, its paths and columns -> ``Dataset``. Found by module name; nothing is registered."""
