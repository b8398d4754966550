"""Lineage: recipes as graphs of content-addressed artifacts, run so that nothing is done twice and nothing is lost."""
