"""The project's own engine: `engine` is the way in; docs/engine.md has its parts."""
