"""What operators write: YAML files, read safely and checked against a model; errors name the place."""
