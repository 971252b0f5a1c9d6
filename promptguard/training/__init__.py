"""Training of the models: data, composition, fitting. Not installed with the package's data."""
