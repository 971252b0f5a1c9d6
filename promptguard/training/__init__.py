"""Training: composing and reading records, fitting the model. Needs the ``train`` extra."""
