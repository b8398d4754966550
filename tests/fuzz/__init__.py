"""Broken and hostile files, made by the thousand: every reader answers with what it read or with words."""
