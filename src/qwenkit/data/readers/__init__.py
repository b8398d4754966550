"""Readers: documents out of files, compressed or not.

`sources` says which files a source holds and what each is read as; `documents` yields documents out of them, through
`warc` and `warc_pages` (web archives), `row_files` and `json_files` (JSON, CSV and Parquet), `text_lines` (lines of any
file), `encoding` (bytes to characters) and `remote` (Hub data sets, S3 and GCS).
"""
