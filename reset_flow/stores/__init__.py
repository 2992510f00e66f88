"""Places to keep flows: a module or a package for each back end."""
