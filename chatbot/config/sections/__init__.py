"""The settings, by section of config.toml."""
