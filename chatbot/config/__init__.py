"""The configuration: settings, their sources, validation and listing. Imports nothing else of this project."""
