"""What commands and pages show, as values: states of channels, routes, models, usage, trees. Prints nothing."""
