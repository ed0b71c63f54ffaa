"""Commands that look something up: methods, recipes, the resolved configuration."""
