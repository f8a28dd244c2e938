"""The artefact: header, host code, images and weights as one library that needs the driver only."""
