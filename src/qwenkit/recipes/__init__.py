"""Recipes that come with the package: `qwenkit run NAME`, `qwenkit init my.toml --from NAME`."""
