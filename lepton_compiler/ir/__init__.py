"""The intermediate representation: graphs of operators on typed tensors, and their text form."""
