"""What turns a graph into an artefact; `lepton_compiler.backend` has the interface and the names."""
