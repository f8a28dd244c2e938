"""Frontends: foreign model formats to graphs, one package per format."""
