"""What a run is: frozen configuration models, and the YAML files that fill them."""
